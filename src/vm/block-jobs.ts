/**
 * The block jobs that monitors start: names become nodes, targets are made, opened, and closed again with the job, the
 * device is switched to the target of a mirror that completes, and what was told to end can be waited for. The jobs
 * themselves are in src/block/jobs/. Facts: QEMU blockdev.c (texts, order of checks), docs/qemu-behaviour.md 5.8, 5.10.
 */
import { Deferred, withDeadline } from '../base/async.ts';
import { ColoError, DeviceNotFoundError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { createImage, fileNameOf } from '../block/create-image.ts';
import { FileDriver } from '../block/drivers/file.ts';
import type { DirtyBitmap } from '../block/dirty-bitmap.ts';
import type { BlockGraph, OpenImageOptions } from '../block/graph.ts';
import { BitmapSync } from '../block/jobs/bitmap-sync.ts';
import type { BitmapMode } from '../block/jobs/bitmap-sync.ts';
import type { Job, OnError } from '../block/jobs/job.ts';
import { requireUnblocked } from '../block/jobs/manager.ts';
import type { BlockJobs } from '../block/jobs/manager.ts';
import type { Pivot } from '../block/jobs/mirror.ts';
import type { BlockNode } from '../block/node.ts';
import { PARTED_BITMAP } from '../block/parted.ts';
import { probeFormat } from '../block/probe.ts';
import { findLayers } from './backing-chain.ts';
import type { LayerNames } from './backing-chain.ts';

const SETTLE_MS = 30_000;
/** How long the end of a job waits for its target to be closed. */
const CLOSE_MS = 2000;
const log = loggerFor('block-jobs');

type Sync = 'full' | 'top' | 'none';

/** sync=bitmap and sync=incremental of a mirror. */
export interface BitmapRequest {
  readonly name: string;
  readonly mode: BitmapMode;
}

export interface JobRequest {
  readonly device: string;
  /** Default: the device's name. */
  readonly jobId?: string | undefined;
  readonly sync: Sync;
  readonly speed?: number | undefined;
  readonly onSourceError?: OnError | undefined;
  readonly onTargetError?: OnError | undefined;
  readonly autoFinalize?: boolean | undefined;
  readonly autoDismiss?: boolean | undefined;
}

export interface MirrorTuning {
  /** With `sync` full: what this bitmap of the source holds instead of everything. */
  readonly bitmap?: BitmapRequest | undefined;
  readonly granularityBytes?: number | undefined;
  readonly bufferBytes?: number | undefined;
  readonly unmap?: boolean | undefined;
  readonly copyMode?: 'background' | 'write-blocking' | undefined;
}

export interface CommitRequest extends Omit<JobRequest, 'sync'>, LayerNames {
  readonly backingFile?: string | undefined;
}

/** A target that is named by a file name. */
export interface NamedTarget {
  readonly target: string;
  readonly mode: 'existing' | 'absolute-paths';
  readonly format?: string | undefined;
  readonly nodeName?: string | undefined;
}

export class VmBlockJobs {
  readonly #graph: BlockGraph;
  readonly #jobs: BlockJobs;
  readonly #isPlugged: (device: string) => boolean;
  /** Jobs by id → the end of the job and the closing of its target. */
  readonly #closing = new Map<string, Promise<void>>();
  /** Those of them that were told to end and have not yet. */
  readonly #ending = new Set<Promise<void>>();

  /** `isPlugged`: whether a guest uses the device. */
  constructor(graph: BlockGraph, jobs: BlockJobs, isPlugged: (device: string) => boolean) {
    this.#graph = graph;
    this.#jobs = jobs;
    this.#isPlugged = isPlugged;
  }

  /** drive-mirror. */
  async driveMirror(request: JobRequest & MirrorTuning & NamedTarget): Promise<void> {
    const source = this.#graph.require(request.device);
    this.#requireMirrorable(source, request.device);
    requireBufferSize(request.bufferBytes);
    if (request.bitmap) {
      requireBitmap(source, request.bitmap.name);
      if (request.mode !== 'existing') {
        throw new ColoError(
          "A mirror by bitmap needs a target that holds the rest already; use mode 'existing'",
        );
      }
    }
    const target = await this.#openTarget(source, request, 'mirror');
    await this.#orClose(target, () => this.#startMirror(source, target, request, true));
  }

  /** blockdev-mirror. */
  blockdevMirror(request: JobRequest & MirrorTuning & { readonly target: string }): void {
    const source = this.#graph.require(request.device);
    const target = this.#graph.require(request.target);
    this.#requireMirrorable(source, request.device);
    if (source === target) throw new ColoError("Can't mirror node into itself");
    this.#jobs.requireNoFilter(target);
    requireBufferSize(request.bufferBytes);
    this.#requireFree(target);
    this.#startMirror(source, target, request, false);
  }

  /** drive-backup. */
  async driveBackup(request: JobRequest & NamedTarget): Promise<void> {
    const source = this.#graph.require(request.device);
    requireUnblocked(source, 'backup-source', request.device);
    const target = await this.#openTarget(source, request, 'backup');
    await this.#orClose(target, () => this.#startBackup(source, target, request, true));
  }

  /** blockdev-backup. */
  blockdevBackup(request: JobRequest & { readonly target: string }): void {
    const source = this.#graph.require(request.device);
    const target = this.#graph.require(request.target);
    requireUnblocked(source, 'backup-source', request.device);
    requireUnblocked(target, 'backup-target', request.target);
    if (source === target) throw new ColoError('Source and target cannot be the same');
    this.#requireFree(target);
    this.#startBackup(source, target, request, false);
  }

  /** block-commit of the active layer. */
  async commit(request: CommitRequest): Promise<void> {
    const { device } = request;
    const active = this.#graph.find(device);
    if (!active) throw new DeviceNotFoundError(`Device '${device}' not found`);
    this.#jobs.requireNoFilter(active);
    requireUnblocked(active, 'commit-source', device);
    const { top, base } = findLayers(this.#graph, active, request);
    if (top !== active) {
      throw new ColoError(
        `'${top.nodeName}' is not the active layer of '${device}'; only that can be committed here, ` +
          'others with the guest shut down (qemu-img commit)',
      );
    }
    if (request.backingFile !== undefined) {
      throw new ColoError("'backing-file' specified, but 'top' is the active layer");
    }
    const target = await this.#writable(base);
    const owned = target !== base;
    const act = (): void => {
      const job = this.#jobs.startMirror({
        ...this.#common(active, { ...request, sync: 'full' }),
        source: active,
        target,
        base,
        pivot: this.#pivot(active, target),
      });
      this.#track(job, active, target, owned);
    };
    if (owned) await this.#orClose(target, act);
    else act();
  }

  cancel(job: Job, force: boolean): void {
    job.cancel(force);
    const closed = this.#closing.get(job.id);
    if (closed) this.#ending.add(closed);
  }

  /**
   * Resolves when every job that was told to end has ended: a mirror that is being cut must be whole before the
   * secondary is built on its target.
   */
  async settled(): Promise<void> {
    await withDeadline(Promise.all(this.#ending), SETTLE_MS, 'a block job that was cancelled');
  }

  /**
   * A backing image is opened for reading only. Its file is opened for writing too, and a second format node on it does
   * the writing: what the layers above have, which is all that is written, nobody reads through the first one.
   */
  async #writable(base: BlockNode): Promise<BlockNode> {
    if (!base.readOnly) return base;
    const { driverName } = base.driver;
    const file = base.driver.children().get('file');
    if (!(file?.driver instanceof FileDriver) || (driverName !== 'raw' && driverName !== 'qcow2')) {
      throw new ColoError(`Node '${base.nodeName}' is read-only`);
    }
    await file.driver.makeWritable();
    const below = driverName === 'qcow2' ? { backing: base.backing?.nodeName ?? '' } : {};
    const options = { driver: driverName, file: file.nodeName, ...below };
    return this.#graph.openImage(`json:${JSON.stringify(options)}`);
  }

  #startMirror(
    source: BlockNode,
    target: BlockNode,
    request: JobRequest & MirrorTuning,
    ownsTarget: boolean,
  ): void {
    const { granularityBytes, bufferBytes, unmap, copyMode } = request;
    const bitmap = request.bitmap && borrow(source, request.bitmap);
    const start = (): Job =>
      this.#jobs.startMirror({
        ...this.#common(source, request),
        source,
        target,
        ...(bitmap ? { bitmap } : {}),
        ...(granularityBytes ? { granularityBytes } : {}),
        ...(bufferBytes ? { bufferBytes } : {}),
        ...(unmap === undefined ? {} : { unmap }),
        ...(copyMode === undefined ? {} : { copyMode }),
        pivot: this.#pivot(source, target),
      });
    try {
      this.#track(start(), source, target, ownsTarget);
    } catch (error) {
      bitmap?.end(false);
      throw error;
    }
  }

  #startBackup(source: BlockNode, target: BlockNode, request: JobRequest, ownsTarget: boolean): void {
    const job = this.#jobs.startBackup({ ...this.#common(source, request), source, target });
    this.#track(job, source, target, ownsTarget);
  }

  #common(source: BlockNode, request: JobRequest) {
    const { speed, onSourceError, onTargetError, autoFinalize, autoDismiss } = request;
    // An image without a backing image has nothing on top.
    const sync = request.sync === 'top' && source.backing === null ? 'full' : request.sync;
    return {
      id: request.jobId ?? this.#graph.backendsOf(source)[0] ?? '',
      sync,
      ...(speed === undefined ? {} : { speed }),
      ...(onSourceError === undefined ? {} : { onSourceError }),
      ...(onTargetError === undefined ? {} : { onTargetError }),
      ...(autoFinalize === undefined ? {} : { autoFinalize }),
      ...(autoDismiss === undefined ? {} : { autoDismiss }),
    };
  }

  #requireMirrorable(source: BlockNode, name: string): void {
    this.#jobs.requireNoFilter(source);
    requireUnblocked(source, 'mirror-source', name);
  }

  /** A job needs its target for itself. */
  #requireFree(target: BlockNode): void {
    for (const user of target.users) {
      if (user.startsWith('drive:') && !this.#isPlugged(user.slice('drive:'.length))) continue;
      throw new ColoError(`Node '${target.nodeName}' is in use (${user}); a job needs its target for itself`);
    }
  }

  /** Makes the target if it is to be made, and opens it. */
  async #openTarget(
    source: BlockNode,
    request: JobRequest & NamedTarget,
    kind: 'mirror' | 'backup',
  ): Promise<BlockNode> {
    const { target, mode, nodeName } = request;
    const below = backingOf(source, request.sync);
    let format = request.format;
    if (mode === 'absolute-paths') {
      format ??= source.driver.driverName;
      const file = below === null ? null : fileNameOf(below);
      if (below !== null && file === null && format !== 'raw') {
        throw new ColoError(
          `Node '${below.nodeName}' is in no file that '${target}' could name as its backing file`,
        );
      }
      await createImage(target, {
        format,
        sizeBytes: source.lengthBytes,
        ...(below === null ? {} : { backing: { file: file ?? '', format: below.driver.driverName } }),
      });
    } else if (below !== null) format ??= await this.#probe(target);
    const options: OpenImageOptions = {
      ...(format === undefined ? {} : { format }),
      ...(nodeName === undefined ? {} : { nodeName }),
      // What is not copied comes from the very node that has it.
      ...(below === null || format !== 'qcow2' ? {} : { backing: below.nodeName }),
    };
    const node = await this.#graph.openImage(target, options);
    if (kind === 'backup' && node.lengthBytes !== source.lengthBytes) {
      await this.#graph.closeImage(node);
      throw new ColoError('Source and target image have different sizes');
    }
    return node;
  }

  async #probe(name: string): Promise<string> {
    const node = await this.#graph.openImage(name, { format: 'raw', readOnly: true });
    try {
      const head = new Uint8Array(Math.min(512, node.lengthBytes));
      await node.read(0, head);
      return probeFormat(head);
    } finally {
      await this.#graph.closeImage(node);
    }
  }

  async #orClose(target: BlockNode, act: () => void): Promise<void> {
    try {
      act();
    } catch (error) {
      await this.#graph.closeImage(target);
      throw error;
    }
  }

  #track(job: Job, source: BlockNode, target: BlockNode, ownsTarget: boolean): void {
    const user = `job:${job.id}`;
    this.#graph.attach(source, user);
    this.#graph.attach(target, user);
    const left = new Deferred<void>();
    const leave = async (): Promise<void> => {
      await this.#graph.detach(source, user);
      // A request that was given up may still be on its way to the target, which is not free until it has ended.
      await target.drain();
      if (ownsTarget) await this.#graph.closeImage(target);
      await this.#graph.detach(target, user);
    };
    job.atEnd(async () => {
      void leave().then(left.resolve, left.reject);
      // Whoever sees the job end finds its target free, unless that is stuck.
      await withDeadline(left.promise, CLOSE_MS, 'closing a target').catch(() => undefined);
    });
    const closed = left.promise
      .catch((error: unknown) => log.warn({ err: error, job: job.id }, 'closing what a job used'))
      .then(() => {
        if (this.#closing.get(job.id) === closed) this.#closing.delete(job.id);
        this.#ending.delete(closed);
      });
    this.#closing.set(job.id, closed);
  }

  /** Requests of the source's devices wait in front of it while they are moved to the target. */
  #pivot(source: BlockNode, target: BlockNode): Pivot {
    const graph = this.#graph;
    const moved = graph.backendsOf(source).flatMap((id) => graph.findBackend(id) ?? []);
    return {
      check: () => {
        for (const user of source.users) {
          if (/^(?:drive|job|tool)(?::|$)/.test(user)) continue;
          throw new ColoError(
            `Node '${source.nodeName}' is used by '${user}' too, which cannot be moved to the target; ` +
              'end that use first, or end the job with block-job-cancel',
          );
        }
      },
      hold: () => {
        for (const { gate } of moved) gate.close();
      },
      swap: async () => {
        for (const { id } of moved) await graph.replaceRoot(id, target);
        // What the device's former peer lacks is so whichever node the device shows.
        target.dirtyBitmaps.takeOver(source.dirtyBitmaps, PARTED_BITMAP);
      },
      release: () => {
        for (const { gate } of moved) gate.open();
      },
    };
  }
}

/** What a target of `sync` is to stand on: for top the source's backing image, for none the source itself. */
function backingOf(source: BlockNode, sync: Sync): BlockNode | null {
  if (sync === 'none') return source;
  return sync === 'top' ? source.backing : null;
}

/** Throws when there is none of that name, or a job has it. */
function requireBitmap(source: BlockNode, name: string): DirtyBitmap {
  const found = source.dirtyBitmaps.find(name);
  if (!found) throw new ColoError(`Bitmap '${name}' could not be found`);
  found.requireIdle();
  return found;
}

function borrow(source: BlockNode, { name, mode }: BitmapRequest): BitmapSync {
  return new BitmapSync(requireBitmap(source, name), mode);
}

function requireBufferSize(bytes: number | undefined): void {
  if (bytes !== undefined && bytes < 0) throw new ColoError("Invalid parameter 'buf-size'");
}
