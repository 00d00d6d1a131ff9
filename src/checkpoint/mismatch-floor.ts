/**
 * How soon a difference may ask for the next checkpoint. While one is taken the two copies do not run side by side, so
 * a guest whose every answer differs would checkpoint without end. Here a checkpoint that took T ms is paid for by
 * running: at a share of `share` percent by T × share / (100 - share) ms in which none is taken. Debts below `BURST_MS`
 * need not be paid at once, so that a difference now and then is answered without delay.
 *
 * What it guarantees, over any stretch of time in which only differences ask: the time between checkpoints is at least
 * share / (100 - share) of the time in them, less the burst and the last one's debt.
 */

/** Debt, in milliseconds of running, up to which a checkpoint may begin at once. */
export const BURST_MS = 100;

/** x-mismatch-run-share: percent. 0: differences are answered at once, always. */
export const DEFAULT_RUN_SHARE = 50;
export const MAX_RUN_SHARE = 90;

export class MismatchFloor {
  share: number;
  #debtMs = 0;
  #paidUpTo = 0;

  constructor(share = DEFAULT_RUN_SHARE) {
    this.share = share;
  }

  /** How long the next one has to wait, seen from `nowMs`: 0 or more. */
  waitMs(nowMs: number): number {
    return this.share === 0 ? 0 : Math.max(0, this.#owed(nowMs) - BURST_MS);
  }

  /** A checkpoint, for whatever reason, was taken from `fromMs` to `toMs`. */
  taken(fromMs: number, toMs: number): void {
    this.#debtMs = this.#owed(fromMs) + ((toMs - fromMs) * this.share) / (100 - this.share);
    this.#paidUpTo = toMs;
  }

  #owed(nowMs: number): number {
    return Math.max(0, this.#debtMs - Math.max(0, nowMs - this.#paidUpTo));
  }
}
