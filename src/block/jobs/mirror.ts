/**
 * drive-mirror: makes the target a copy of the source while the source is in use, and keeps it one until the job is
 * cancelled (the target is then a consistent copy of that moment: the success path of a COLO resync) or completed.
 * Facts: docs/qemu-behaviour.md 5.8.
 *
 * The end: new writes of the source wait, those in flight end, the rest is copied, the target is flushed, `whenQuiet`
 * runs (the place to attach the copy to a quorum without losing a write), and writes go on.
 */
import { statusAbove } from './allocation.ts';
import type { BlockExtent } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import { DiskCopier, requireSameLength } from './disk-copier.ts';
import { Job } from './job.ts';
import type { JobOptions } from './job.ts';

export interface MirrorOptions extends JobOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** full: everything. top: what the top image has itself. none: only what is written from now on. */
  readonly sync: 'full' | 'top' | 'none';
  /** The target was just created and reads as zeros. Default false: zeros are written too. */
  readonly targetIsZero?: boolean;
  /** A request that takes longer fails the job (milliseconds, default 30 s). */
  readonly stallMs?: number;
  /** Runs while source and target are equal and no write can begin. `pivot`: by block-job-complete. */
  readonly whenQuiet?: (pivot: boolean) => Promise<void> | void;
}

export class MirrorJob extends Job {
  readonly type = 'mirror';
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly #options: MirrorOptions;
  readonly #copier: DiskCopier;
  #comparable = false;
  #finish: { readonly pivot: boolean } | null = null;

  constructor(options: MirrorOptions) {
    super(options);
    this.#options = options;
    this.source = options.source;
    this.target = options.target;
    this.#copier = new DiskCopier({
      source: options.source,
      target: options.target,
      extents: async (offset, length) => (await options.source.blockStatus(offset, length)).map(everything),
      targetIsZero: options.targetIsZero ?? false,
      limit: this.limit,
      signal: this.abort.signal,
      checkpoint: () => this.checkpoint(),
      onError: (operation, error) => this.reportIoError(operation, error),
      ...(options.stallMs === undefined ? {} : { stallMs: options.stallMs }),
    });
  }

  protected override get busy(): boolean {
    return this.#copier.inFlight > 0;
  }

  override progress(): { readonly offset: number; readonly len: number } {
    return this.#comparable ? this.#copier.progress() : { offset: 0, len: 0 };
  }

  protected override finish(pivot: boolean): void {
    this.#finish ??= { pivot };
    this.#copier.wake();
  }

  protected override async run(): Promise<void> {
    const copier = this.#copier;
    const user = `job:${this.id}`;
    this.source.users.add(user);
    this.target.users.add(user);
    try {
      requireSameLength(this.source, this.target);
      this.#comparable = true;
      copier.attach();
      await this.#markFirst();
      await copier.copyUntil(() => copier.caughtUp || copier.nearlyCaughtUp);
      this.declareReady();
      await copier.copyUntil(() => this.#finish !== null);
      await copier.holdWrites();
      await copier.copyUntil(() => copier.caughtUp);
      await copier.bounded(this.target.flush(), 'Flush of the mirror');
      await this.#options.whenQuiet?.(this.#finish?.pivot ?? false);
    } finally {
      copier.detach();
      this.source.users.delete(user);
      this.target.users.delete(user);
    }
  }

  async #markFirst(): Promise<void> {
    const { source, sync } = this.#options;
    if (sync === 'full') this.#copier.dirty.setAll();
    if (sync === 'top') {
      const base = source.backing;
      await this.#copier.markAllocated((offset, length) => statusAbove(source, base, offset, length));
    }
  }
}

/** A mirror copies a range whatever image of the chain it comes from. */
function everything(extent: BlockExtent): BlockExtent {
  return extent.allocated ? extent : { ...extent, allocated: true };
}
