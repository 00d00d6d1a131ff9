/**
 * The block jobs that monitors start: names become nodes, targets are opened and closed again with the job, and what
 * was told to end can be waited for. The jobs themselves are in src/block/jobs/. Facts: QEMU blockdev.c (texts),
 * docs/qemu-behaviour.md 5.8.
 */
import { withDeadline } from '../base/async.ts';
import { loggerFor } from '../base/logger.ts';
import type { BlockGraph } from '../block/graph.ts';
import type { Job } from '../block/jobs/job.ts';
import { requireUnblocked } from '../block/jobs/manager.ts';
import type { BlockJobs } from '../block/jobs/manager.ts';

const SETTLE_MS = 30_000;
const log = loggerFor('block-jobs');

export interface MirrorRequest {
  readonly device: string;
  readonly job: string;
  readonly target: string;
  readonly sync: 'full' | 'top' | 'none';
  readonly format?: string;
  readonly speed?: number;
}

export class VmBlockJobs {
  readonly #graph: BlockGraph;
  readonly #jobs: BlockJobs;
  /** Jobs by id → the end of the job and the closing of its target. */
  readonly #closing = new Map<string, Promise<void>>();
  /** Those of them that were told to end and have not yet. */
  readonly #ending = new Set<Promise<void>>();

  constructor(graph: BlockGraph, jobs: BlockJobs) {
    this.#graph = graph;
    this.#jobs = jobs;
  }

  /** drive-mirror onto an existing target. */
  async mirror(request: MirrorRequest): Promise<void> {
    const source = this.#graph.findBackend(request.device)?.root ?? this.#graph.require(request.device);
    requireUnblocked(source, 'mirror', request.device);
    this.#jobs.checkId(request.job);
    const target = await this.#graph.openImage(request.target, {
      ...(request.format === undefined ? {} : { format: request.format }),
    });
    let job: Job;
    try {
      job = this.#jobs.startMirror({
        id: request.job,
        source,
        target,
        sync: request.sync,
        ...(request.speed === undefined ? {} : { speed: request.speed }),
      });
    } catch (error) {
      await this.#graph.closeImage(target);
      throw error;
    }
    const closed = job.ended
      .then(() => this.#graph.closeImage(target))
      .catch((error: unknown) => log.warn({ err: error, job: job.id }, 'closing a mirror target'))
      .then(() => {
        this.#closing.delete(job.id);
        this.#ending.delete(closed);
      });
    this.#closing.set(job.id, closed);
  }

  cancel(id: string, force: boolean): void {
    this.#jobs.cancel(id, force);
    const closed = this.#closing.get(id);
    if (closed) this.#ending.add(closed);
  }

  /**
   * Resolves when every job that was told to end has ended: a mirror that is being cut must be whole before the
   * secondary is built on its target.
   */
  async settled(): Promise<void> {
    await withDeadline(Promise.all(this.#ending), SETTLE_MS, 'a block job that was cancelled');
  }
}
