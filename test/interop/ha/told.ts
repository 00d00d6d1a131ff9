/** What was told, in order, to wait for: lines of a process, or calls of hooks. */
import { withDeadline } from '../../../src/base/async.ts';

/** A busy machine; nothing that waits by it is about speed. */
export const STEP_MS = 30_000;

export interface Told {
  readonly event: string;
  readonly [member: string]: unknown;
}

export class ToldLog {
  readonly #seen: Told[] = [];
  #wake: (() => void)[] = [];

  add(told: Told): void {
    this.#seen.push(told);
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** The next one of that name, and of that peer if one is given; those before it are gone. */
  next(event: string, peer?: string): Promise<Told> {
    const look = async (): Promise<Told> => {
      for (;;) {
        const at = this.#seen.findIndex(
          (told) => told.event === event && (peer === undefined || told['peer'] === peer),
        );
        if (at >= 0) return this.#seen.splice(0, at + 1).at(-1)!;
        await new Promise<void>((resolve) => this.#wake.push(resolve));
      }
    };
    return withDeadline(look(), STEP_MS, `'${event}' after ${JSON.stringify(this.#seen)}`);
  }

  has(event: string): boolean {
    return this.#seen.some((told) => told.event === event);
  }

  forget(): void {
    this.#seen.length = 0;
  }
}
