/**
 * The comparer's part in a checkpoint, on the primary. `stopped` ends an epoch: the primary's packets up to that byte of
 * `primary_in` wait for `commit`, which releases them: the secondary then holds their cause. What comes later, from
 * either side, is of the next epoch: it is kept apart and not judged before the commit. Both streams are cut by position
 * (epoch-cut.ts), so the guest may run again at once and nothing waits for the loopback, except the commit itself, to
 * keep the order.
 */
import { Deferred, withDeadline } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import type { Logger } from '../../base/logger.ts';
import type { HeldFrame, StreamMark } from '../../base/participant.ts';
import type { FrameInput } from '../frame-input.ts';
import { RateLimitedWarning } from '../frame-output.ts';
import type { Comparison } from './comparison.ts';
import { EpochCut } from './epoch-cut.ts';
import type { ColoCompareOptions } from './options.ts';

const DRAIN_DEADLINE_MS = 1_000;

/**
 * `comparing`; `closing`: a checkpoint is being taken; `passing`: there is no pair, everything leaves at once.
 */
export type Mode = 'comparing' | 'closing' | 'passing';

export interface EpochsOptions {
  readonly id: string;
  readonly options: ColoCompareOptions;
  readonly comparison: Comparison;
  readonly primary: FrameInput;
  readonly secondary: FrameInput;
  readonly now: () => number;
  readonly logger: Logger;
}

export class Epochs {
  readonly #id: string;
  readonly #options: ColoCompareOptions;
  readonly #comparison: Comparison;
  readonly #primary: FrameInput;
  readonly #secondary: FrameInput;
  readonly #now: () => number;
  readonly #logger: Logger;
  readonly #warning: RateLimitedWarning;
  readonly #primaryCut = new EpochCut();
  readonly #secondaryCut = new EpochCut();
  #mode: Mode;
  /** A checkpoint has been committed since `begin`: there is a secondary that may take over. */
  #isPaired = false;
  #drained: Deferred<void> | null = null;

  constructor({ id, options, comparison, primary, secondary, now, logger }: EpochsOptions) {
    this.#id = id;
    this.#options = options;
    this.#comparison = comparison;
    this.#primary = primary;
    this.#secondary = secondary;
    this.#now = now;
    this.#logger = logger;
    this.#warning = new RateLimitedWarning(logger);
    this.#mode = options.bypassUntilStarted ? 'passing' : 'comparing';
    comparison.isOpen = this.#mode === 'comparing';
  }

  get mode(): Mode {
    return this.#mode;
  }

  /** Whether the primary's frame that is being read is of a closed epoch. */
  coversPrimary(): boolean {
    return !this.#primaryCut.isPassed && this.#primaryCut.covers(this.#primary.position);
  }

  coversSecondary(): boolean {
    return !this.#secondaryCut.isPassed && this.#secondaryCut.covers(this.#secondary.position);
  }

  primaryConnected(): void {
    this.#primaryCut.reconnected(this.#primary.stream);
    this.checkDrained();
  }

  secondaryConnected(): void {
    this.#secondaryCut.reconnected(this.#secondary.stream);
  }

  /** Protection begins: what the primary has said up to here is in the state that the secondary starts from. */
  begin(): void {
    this.#primaryCut.at(this.#saidByPrimary());
    this.flush();
    this.#isPaired = false;
    this.#setMode('comparing');
  }

  /** A checkpoint was taken by somebody else: releases what the primary has said, forgets what the secondary has. */
  flush(): void {
    this.#comparison.cut();
    this.#comparison.cover(this.#now());
  }

  stopped(): void {
    this.#setMode('closing');
    this.#primaryCut.at(this.#saidByPrimary());
    this.#secondaryCut.open();
    this.#comparison.cut();
  }

  peerMarks(marks: readonly StreamMark[]): void {
    if (this.#mode !== 'closing') return;
    const mark = this.#secondary.markIn(marks);
    if (mark) this.#secondaryCut.at(mark.bytes);
    else {
      this.#warning.warn(
        `colo-compare '${this.#id}': the secondary's mark names no connection of secondary_in: ` +
          'what it sends before the commit is discarded',
      );
      this.#secondaryCut.expect(marks);
    }
  }

  /** The closed epoch's packets, once the last of them has come through the loopback. */
  async heldOutput(): Promise<HeldFrame[]> {
    const netdev = this.#options.findOutputNetdev?.();
    if (this.#mode !== 'closing' || netdev === undefined || netdev === null) return [];
    // A packet that is late is only lost to a failover, and comes back by retransmission.
    await this.drainPrimary().catch(() => undefined);
    const frames: HeldFrame[] = [];
    for (const { closed } of this.#comparison.table.all()) {
      for (let at = 0; at < closed.length; at++) {
        const { bytes, start, end } = closed.get(at);
        // They may leave, and their buffers be used again, before this is sent.
        frames.push({ netdev, frame: Buffer.from(bytes.subarray(start, end)) });
      }
    }
    return frames;
  }

  async commit(): Promise<void> {
    if (this.#mode !== 'closing') return;
    try {
      await this.drainPrimary();
    } catch (cause) {
      this.#logger.warn(
        `colo-compare '${this.#id}': ${messageOf(cause)}; its packets will leave as they come`,
      );
    }
    if (this.#modeNow() !== 'closing') return;
    this.#secondaryCut.settle(this.#secondary.position);
    const nowMs = this.#now();
    this.#comparison.cover(nowMs);
    this.#setMode('comparing');
    this.#isPaired = true;
    this.#comparison.compareAll(nowMs);
  }

  /**
   * `failover`: there is no pair any more; all that waits leaves, and all that comes passes, until `begin`. The same
   * holds for a pair that never came to be. Otherwise output stays held: who goes on alone is not decided yet.
   */
  stop(failover: boolean): void {
    const hasNeverBegun = !this.#isPaired && this.#options.bypassUntilStarted === true;
    if (!failover && !hasNeverBegun) return;
    this.flush();
    this.#comparison.clear();
    this.#setMode('passing');
    this.close();
  }

  /**
   * Resolves when `primary_in` has read all that its sender had written when the guest stood still. Rejects with
   * TimeoutError after one second. Without a sender in this process there is nothing to wait for.
   */
  async drainPrimary(): Promise<void> {
    if (this.#isDrained()) return;
    this.#drained ??= new Deferred<void>();
    await withDeadline(
      this.#drained.promise,
      DRAIN_DEADLINE_MS,
      'primary_in has not delivered all of the closed epoch',
    );
  }

  /** Nothing is waited for any more. */
  close(): void {
    this.#drained?.resolve();
    this.#drained = null;
  }

  checkDrained(): void {
    if (this.#drained === null || !this.#isDrained()) return;
    this.#drained.resolve();
    this.#drained = null;
  }

  /** Set while `await` was under way, perhaps. */
  #modeNow(): Mode {
    return this.#mode;
  }

  /** How far the guest's output reached at this moment, in bytes of the connection behind `primary_in`. */
  #saidByPrimary(): number {
    const stream = this.#primary.stream;
    const sender = stream === null ? null : this.#options.findSender?.(stream);
    return sender?.connected ? sender.bytesOut : this.#primary.position;
  }

  #isDrained(): boolean {
    return !this.#primary.chardev.connected || this.#primary.position >= this.#primaryCut.upTo;
  }

  #setMode(mode: Mode): void {
    this.#mode = mode;
    this.#comparison.isOpen = mode === 'comparing';
  }
}
