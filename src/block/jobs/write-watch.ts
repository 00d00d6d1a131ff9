/**
 * Watches the writes of one node and can hold them: the hooks of BlockNode made into "wait until none is in flight,
 * and let no new one begin until I say so". Jobs and replication use it to cut the stream of writes at one point.
 *
 * A held write has not reached the driver, but it does count in `BlockNode.inFlight`; so never await the node's drain
 * while holding. BlockNode reports a write's end even if an earlier hook refused it: the hooks of this folder that
 * refuse writes are registered through `guard`, which runs after the watch has counted the write.
 */
import { Gate } from '../../base/async.ts';
import type { BlockNode } from '../node.ts';
import { RangeTracker } from './range-tracker.ts';

export interface WriteWatchHooks {
  /** Runs before the write reaches the driver, once it is not held; the write fails if it throws. */
  readonly guard?: (offset: number, length: number) => Promise<void> | void;
  /** Runs when the write ended, well or not. */
  readonly ended?: (offset: number, length: number) => void;
}

export class WriteWatch {
  readonly #gate = new Gate();
  readonly #writes = new RangeTracker();
  readonly #remove: (() => void)[];

  constructor(node: BlockNode, hooks: WriteWatchHooks = {}) {
    this.#remove = [
      node.onBeforeWrite(async (offset, length) => {
        // No await between seeing the gate open and being counted, or hold() could miss this write.
        while (!this.#gate.isOpen) await this.#gate.pass();
        this.#writes.enter(offset, length);
        await hooks.guard?.(offset, length);
      }),
      node.onAfterWrite((offset, length) => {
        // False for a write that began before the watch did; its end matters to `ended` all the same.
        this.#writes.leaveRange(offset, length);
        hooks.ended?.(offset, length);
      }),
    ];
  }

  get inFlight(): number {
    return this.#writes.count;
  }

  /** Lets no new write begin; resolves when those that had begun have ended. */
  async hold(): Promise<void> {
    this.#gate.close();
    await this.#writes.idle();
  }

  release(): void {
    this.#gate.open();
  }

  /** Stops watching; what is held goes on. */
  detach(): void {
    for (const remove of this.#remove) remove();
    this.#gate.open();
  }
}
