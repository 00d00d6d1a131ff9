/**
 * The commit of a failover: moves what the images above `base` hold (active and hidden disk) down into it (the secondary
 * disk) while the guest goes on writing to `top`, and then switches over. It completes by itself; block-commit is a
 * mirror into the base (mirror.ts) and waits to be told. Facts: docs/qemu-behaviour.md 5.4.
 *
 * The switch-over belongs to the owner: `quiesce` must keep new requests away from `top` and wait for those in flight,
 * `pivot` makes the owner use `base`, `release` lets the requests go on (always called after `quiesce`).
 */
import type { BlockNode } from '../node.ts';
import { statusAbove } from './allocation.ts';
import type { ChunkBitmap } from './chunk-bitmap.ts';
import { DiskCopier, requireSameLength } from './disk-copier.ts';
import { Job } from './job.ts';
import type { JobOptions } from './job.ts';

export interface CommitOptions extends JobOptions {
  readonly top: BlockNode;
  /** The image below `top` that stays out of the copy: the walk down ends above it. */
  readonly base: BlockNode;
  /** Where the data is written: `base` itself, or a way to it that a fence lets through. Default `base`. */
  readonly target?: BlockNode;
  readonly quiesce: () => Promise<void>;
  readonly pivot: () => Promise<void> | void;
  readonly release: () => void;
  /** Told once, before anything is copied, which chunks the images above `base` determine. */
  readonly allocated?: (chunks: ChunkBitmap) => void;
  /** A request that takes longer fails the job (milliseconds, default 30 s). */
  readonly stallMs?: number;
}

export class CommitJob extends Job {
  readonly type = 'commit';
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly #options: CommitOptions;
  readonly #copier: DiskCopier;

  constructor(options: CommitOptions) {
    super(options);
    this.#options = options;
    this.source = options.top;
    this.target = options.target ?? options.base;
    this.#copier = new DiskCopier({
      source: options.top,
      target: this.target,
      extents: (offset, length) => statusAbove(options.top, options.base, offset, length),
      limit: this.limit,
      signal: this.abort.signal,
      checkpoint: () => this.checkpoint(),
      isPaused: () => this.isPaused,
      onError: (operation, error) => this.ioFailed(operation, error),
      ...(options.stallMs === undefined ? {} : { stallMs: options.stallMs }),
    });
  }

  protected override get busy(): boolean {
    return this.#copier.inFlight > 0;
  }

  override progress(): { readonly offset: number; readonly len: number } {
    return this.#copier.progress();
  }

  protected override finish(): void {
    // It ends by itself as soon as it is ready.
  }

  protected override async run(): Promise<void> {
    const { top, base, quiesce, pivot, release } = this.#options;
    const copier = this.#copier;
    const status = (offset: number, length: number): ReturnType<typeof statusAbove> =>
      statusAbove(top, base, offset, length);
    try {
      requireSameLength(top, base);
      copier.attach();
      await copier.markAllocated(status);
      this.#options.allocated?.(copier.dirty);
      await copier.copyUntil(() => copier.caughtUp || copier.nearlyCaughtUp);
      this.declareReady();
      this.beUnstoppable();
      try {
        await copier.bounded(quiesce(), `Requests on '${top.nodeName}'`);
        await copier.copyUntil(() => copier.caughtUp);
        await copier.bounded(this.target.flush(), `Flush of '${base.nodeName}'`);
        copier.detach();
        await pivot();
      } finally {
        release();
      }
    } finally {
      copier.detach();
    }
  }
}
