/**
 * drive-backup, blockdev-backup: the target gets the content that the source has when the job starts. What the guest
 * overwrites is copied first (copy-before-write.ts); the rest is copied in the background. sync=none has no background
 * and lasts until it is cancelled. Facts: docs/qemu-behaviour.md 5.10; QEMU qapi/block-core.json (BackupCommon).
 *
 * As in QEMU a copy that fails before a write of the guest fails that write, and the job goes on. A target that gives no
 * answer ends the job, and the guest's writes go on.
 */
import { ColoError } from '../../base/errors.ts';
import type { BlockNode } from '../node.ts';
import { wholeStatus } from './allocation.ts';
import { CopyBeforeWrite } from './copy-before-write.ts';
import { planItems } from './copy-plan.ts';
import type { CopyItem } from './copy-plan.ts';
import { requireSameLength } from './disk-copier.ts';
import { Job } from './job.ts';
import type { JobOptions } from './job.ts';
import { sideOf } from './piece-error.ts';

/** Pieces in flight, of at most MAX_COPY_BYTES (copy-before-write.ts) each. */
const WORKERS = 8;
const PIECE_BYTES = 1024 * 1024;
const ZERO_BYTES = 16 * 1024 * 1024;
/** Block status is asked for this much at once. */
const STATUS_BYTES = 64 * 1024 * 1024;
const DEFAULT_STALL_MS = 30_000;
/** A request whose error is ignored is tried again after this time. */
const RETRY_MS = 100;

export interface BackupOptions extends JobOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** full: everything. top: what the top image has itself. none: only what is overwritten. */
  readonly sync: 'full' | 'top' | 'none';
  /** A request that takes longer fails the job (milliseconds, default 30 s). */
  readonly stallMs?: number;
}

export class BackupJob extends Job {
  readonly type = 'backup';
  readonly source: BlockNode;
  readonly target: BlockNode;
  protected override readonly drainsAtStart = true;
  readonly #sync: 'full' | 'top' | 'none';
  readonly #engine: CopyBeforeWrite;
  /** Planned and not begun. */
  #queue: CopyItem[] = [];
  #planning: Promise<void> | null = null;
  /** Up to where the disk has been planned. */
  #planned = 0;
  #leftOutBytes = 0;
  #failure: { readonly error: unknown } | null = null;

  /** Throws when the two differ in length. */
  constructor(options: BackupOptions) {
    super(options);
    const { source, target } = options;
    requireSameLength(source, target);
    this.source = source;
    this.target = target;
    this.#sync = options.sync;
    this.#engine = new CopyBeforeWrite({
      source,
      target,
      // A target with a backing image reads as zeros by it, and only for now.
      zeros: options.sync === 'full' && target.backing === null ? 'skip' : 'write',
      stall: {
        ms: options.stallMs ?? DEFAULT_STALL_MS,
        signal: this.abort.signal,
        onStall: (error) => this.abort.abort(error),
      },
    });
  }

  protected override get busy(): boolean {
    return this.#engine.inFlight > 0;
  }

  override progress(): { readonly offset: number; readonly len: number } {
    return {
      offset: this.#engine.copiedBytes - this.#leftOutBytes,
      len: this.source.lengthBytes - this.#leftOutBytes,
    };
  }

  override start(): void {
    // From here on the content is kept: this is the moment that the backup shows.
    this.#engine.start();
    super.start();
  }

  protected override finish(): void {
    // A backup is never ready.
  }

  protected override async run(): Promise<void> {
    if (this.#sync === 'none') await this.#untilCancelled();
    if (this.#sync === 'top') await this.#leaveOutUnallocated();
    await Promise.all(Array.from({ length: WORKERS }, () => this.#work()));
    if (this.#failure) throw this.#failure.error;
    this.abort.signal.throwIfAborted();
    await this.target.flush();
  }

  protected override clean(): void {
    this.#engine.detach();
  }

  async #work(): Promise<void> {
    const { limit } = this;
    const { signal } = this.abort;
    try {
      for (;;) {
        await this.checkpoint();
        if (this.#failure) return;
        if (!limit.free) {
          await limit.wait(signal);
          continue;
        }
        const item = this.#queue.shift();
        if (item) await this.#copy(item);
        else if (this.#planned < this.source.lengthBytes) await (this.#planning ??= this.#plan());
        else return;
      }
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  async #copy(item: CopyItem): Promise<void> {
    const { clusterBytes } = this.#engine;
    const offset = item.first * clusterBytes;
    const length = Math.min(item.end * clusterBytes, this.source.lengthBytes) - offset;
    if (this.#engine.isCopied(offset, length)) return;
    if (item.extents.some(({ zero }) => !zero)) this.limit.spend(length);
    try {
      await this.#engine.copyRange(offset, length);
    } catch (thrown) {
      await this.#failed(thrown);
      this.#queue.push(item);
    }
  }

  /** The next stretch of the disk, as items. */
  async #plan(): Promise<void> {
    const offset = this.#planned;
    const { clusterBytes } = this.#engine;
    const lengthBytes = this.source.lengthBytes;
    const length = Math.min(STATUS_BYTES, lengthBytes - offset);
    const run = { first: offset / clusterBytes, end: Math.ceil((offset + length) / clusterBytes) };
    try {
      const extents = wholeStatus(await this.source.blockStatus(offset, length));
      this.#queue.push(
        ...planItems(run, extents, {
          chunkBytes: clusterBytes,
          lengthBytes,
          pieceChunks: Math.max(1, Math.floor(PIECE_BYTES / clusterBytes)),
          zeroChunks: Math.max(1, Math.floor(ZERO_BYTES / clusterBytes)),
        }),
      );
      this.#planned = offset + length;
    } catch (error) {
      await this.#failed(error);
    } finally {
      this.#planning = null;
    }
  }

  /** Throws when the failure ends the job. */
  async #failed(thrown: unknown): Promise<void> {
    this.abort.signal.throwIfAborted();
    const { operation, error } = sideOf(thrown);
    const action = this.ioFailed(operation, error);
    if (action === 'report') throw error;
    if (action === 'ignore') await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }

  async #leaveOutUnallocated(): Promise<void> {
    const { clusterBytes } = this.#engine;
    const { source } = this;
    for (let offset = 0; offset < source.lengthBytes; offset += STATUS_BYTES) {
      await this.checkpoint();
      const length = Math.min(STATUS_BYTES, source.lengthBytes - offset);
      const first = offset / clusterBytes;
      const clusters = Math.ceil(length / clusterBytes);
      const has = new Uint8Array(clusters);
      for (const extent of await source.blockStatus(offset, length)) {
        if (!extent.allocated) continue;
        const from = Math.floor((extent.offset - offset) / clusterBytes);
        has.fill(1, from, Math.ceil((extent.offset + extent.length - offset) / clusterBytes));
      }
      for (let at = 0; at < clusters; at++) {
        if (has[at] === 1 || !this.#engine.leaveOut(first + at)) continue;
        this.#leftOutBytes += Math.min(clusterBytes, source.lengthBytes - (first + at) * clusterBytes);
      }
    }
  }

  async #untilCancelled(): Promise<never> {
    const { signal } = this.abort;
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    signal.throwIfAborted();
    throw new ColoError('The backup was broken off');
  }
}
