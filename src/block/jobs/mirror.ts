/**
 * drive-mirror, and the commit of an active layer, which is a mirror into an image below: makes the target a copy of the source while the source is in use, and keeps it one until the job is
 * cancelled (the target is then a consistent copy of that moment: the success path of a COLO resync) or completed (the
 * device then shows the target). Facts: docs/qemu-behaviour.md 5.8, 5.10.
 *
 * The end: new writes of the source wait, those in flight end, the rest is copied, the target is flushed, `whenQuiet`
 * runs (the place to attach the copy to a quorum without losing a write), and writes go on. With a pivot the requests of
 * the device wait in front of the source (`pivot.hold`), so that they go on with the target. A job that is pending
 * (auto-finalize=false) goes on copying: QEMU keeps the guest waiting, here the end begins when it is finalized.
 */
import { statusAbove, wholeStatus } from './allocation.ts';
import type { BlockNode } from '../node.ts';
import type { BitmapSync, Bounded } from './bitmap-sync.ts';
import { DiskCopier, requireSameLength } from './disk-copier.ts';
import { Job } from './job.ts';
import type { JobOptions } from './job.ts';

/** How the owner of the device switches it over. */
export interface Pivot {
  /** Throws when the source has users that cannot be moved. */
  readonly check: () => void;
  /** Keeps new requests of the device in front of the source. */
  readonly hold: () => void;
  /** Makes the device use the target. Nothing is in flight on the source. */
  readonly swap: () => Promise<void> | void;
  /** Lets requests go on; called after `hold` in every case. */
  readonly release: () => void;
}

export interface MirrorOptions extends JobOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** full: everything. top: what the top image has itself. none: only what is written from now on. */
  readonly sync: 'full' | 'top' | 'none';
  /** Instead of everything, what this bitmap holds is copied at first. */
  readonly bitmap?: BitmapSync;
  /** Default background. */
  readonly copyMode?: 'background' | 'write-blocking';
  /** A power of two from 512 bytes to 64 MiB. */
  readonly granularityBytes?: number;
  /** Memory for pieces in flight. */
  readonly bufferBytes?: number;
  /** False: zeros keep their space on the target. Default true. */
  readonly unmap?: boolean;
  /** A request that takes longer fails the job (milliseconds, default 30 s). */
  readonly stallMs?: number;
  /** Runs while source and target are equal and no write can begin. `pivot`: by block-job-complete. */
  readonly whenQuiet?: (pivot: boolean) => Promise<void> | void;
  /** Missing: block-job-complete ends the job as a cancel does. */
  readonly pivot?: Pivot;
  /**
   * Makes it an active commit: only what the images above this one have is copied, into the target, which is this image
   * or another way to it. `sync` is meaningless then.
   */
  readonly base?: BlockNode;
}

export class MirrorJob extends Job {
  readonly type: 'mirror' | 'commit';
  readonly source: BlockNode;
  readonly target: BlockNode;
  protected override readonly drainsWhilePending = true;
  readonly #options: MirrorOptions;
  readonly #copier: DiskCopier;
  #comparable = false;
  #finish: { readonly pivot: boolean } | null = null;
  #isCut = false;

  constructor(options: MirrorOptions) {
    super(options);
    const { source, base } = options;
    this.#options = options;
    this.type = base ? 'commit' : 'mirror';
    this.source = source;
    this.target = options.target;
    this.#copier = new DiskCopier({
      source,
      target: options.target,
      extents: base
        ? (offset, length) => statusAbove(source, base, offset, length)
        : async (offset, length) => wholeStatus(await source.blockStatus(offset, length)),
      // What lies under the target belongs to it only when all of the source is copied.
      trustTargetZeros: base !== undefined || options.sync === 'full',
      unmap: options.unmap ?? true,
      writeBlocking: options.copyMode === 'write-blocking',
      limit: this.limit,
      signal: this.abort.signal,
      checkpoint: () => this.checkpoint(),
      isPaused: () => this.isPaused,
      onError: (operation, error) => this.ioFailed(operation, error),
      ...(options.granularityBytes === undefined ? {} : { granularityBytes: options.granularityBytes }),
      ...(options.bufferBytes === undefined ? {} : { bufferBytes: options.bufferBytes }),
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
    if (pivot) this.#options.pivot?.check();
    this.#finish ??= { pivot };
    this.#copier.wake();
  }

  protected override async run(): Promise<void> {
    const copier = this.#copier;
    requireSameLength(this.source, this.target);
    this.#comparable = true;
    copier.attach();
    await this.#markFirst();
    const bounded: Bounded = (work, what) => copier.bounded(work, what);
    await this.#options.bitmap?.check(this.source, this.target, copier.dirty, bounded);
    await copier.copyUntil(() => copier.caughtUp || copier.nearlyCaughtUp);
    this.declareReady();
    await copier.copyUntil(() => this.#finish !== null);
    if (this.autoFinalize) await this.#cut();
  }

  protected override async whilePending(finalized: Promise<void>): Promise<void> {
    let over = false;
    void finalized.then(() => {
      over = true;
      this.#copier.wake();
    });
    await this.#copier.copyUntil(() => over);
  }

  protected override async prepare(): Promise<void> {
    if (!this.#isCut) await this.#cut();
    const pivot = this.#finish?.pivot ?? false;
    await this.#options.whenQuiet?.(pivot);
    if (pivot) await this.#options.pivot?.swap();
    this.#options.bitmap?.end(true);
  }

  protected override clean(): void {
    this.#options.bitmap?.end(false, this.#copier.dirty);
    this.#copier.detach();
    this.#options.pivot?.release();
  }

  /** Source and target become equal, and stay so. */
  async #cut(): Promise<void> {
    const copier = this.#copier;
    this.beUnstoppable();
    this.#isCut = true;
    if (this.#finish?.pivot && this.#options.pivot) {
      // A write that got as far as the source would end there, after the device has left it.
      copier.letWritersPass();
      this.#options.pivot.hold();
      await copier.bounded(this.source.drain(), `Requests on '${this.source.nodeName}'`);
    }
    await copier.holdWrites();
    await copier.copyUntil(() => copier.caughtUp);
    requireSameLength(this.source, this.target);
    await copier.bounded(this.target.flush(), 'Flush of the mirror');
    this.#options.bitmap?.equalNow();
  }

  async #markFirst(): Promise<void> {
    const { source, sync, bitmap } = this.#options;
    if (bitmap) {
      bitmap.addTo(this.#copier.dirty);
      return;
    }
    const base = this.#options.base ?? (sync === 'top' ? source.backing : undefined);
    if (base === undefined && sync === 'full') this.#copier.dirty.setAll();
    if (base !== undefined) {
      await this.#copier.markAllocated((offset, length) => statusAbove(source, base, offset, length));
    }
  }
}
