/**
 * Questions to a source that may fail or hang: each has a deadline, and one that hangs is not asked again without bound.
 */
import { withDeadline } from '../base/async.ts';
import { ColoError, messageOf, TimeoutError } from '../base/errors.ts';

/** For an answer. */
export const ANSWER_MS = 5_000;
/** Questions of one kind that wait for an answer which nobody waits for any more. */
export const MAX_UNANSWERED = 4;

export class Questions {
  readonly #what: string;
  readonly #answerMs: number;
  #unanswered = 0;

  constructor(what: string, answerMs = ANSWER_MS) {
    this.#what = what;
    this.#answerMs = answerMs;
  }

  /** Throws what `question` throws, TimeoutError, and ClosedError with `signal`. */
  async ask<T>(question: () => Promise<T>, signal: AbortSignal): Promise<T> {
    if (this.#unanswered >= MAX_UNANSWERED)
      throw new TimeoutError(`${this.#what}: no answer for a long time`);
    const state = { isAnswered: false };
    const answer = question().finally(() => (state.isAnswered = true));
    try {
      return await withDeadline(answer, this.#answerMs, this.#what, signal);
    } finally {
      if (!state.isAnswered) {
        this.#unanswered++;
        void answer.catch(() => undefined).finally(() => this.#unanswered--);
      }
    }
  }
}

/** For a person. What is no ColoError is a fault of ours and stands in the log. */
export function toldOf(error: unknown): string {
  return error instanceof ColoError ? error.message : `an internal error: ${messageOf(error)}`;
}

/** Asked anew each time it is called, which a condition on the signal itself is not taken to be. */
export function isOver(signal: AbortSignal): boolean {
  return signal.aborted;
}

/** Until the time has passed or `signal` aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Bell().pause(ms, signal);
}

/** A pause that somebody may end early; who rings when there is none ends the next one. */
export class Bell {
  #isRung = false;
  #end: (() => void) | null = null;

  ring(): void {
    this.#isRung = true;
    this.#end?.();
  }

  async pause(ms: number, signal: AbortSignal): Promise<void> {
    if (!this.#isRung && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const end = (): void => {
          clearTimeout(timer);
          signal.removeEventListener('abort', end);
          resolve();
        };
        const timer = setTimeout(end, ms);
        signal.addEventListener('abort', end, { once: true });
        this.#end = end;
      });
    }
    this.#end = null;
    this.#isRung = false;
  }
}
