/**
 * The visible block jobs of one VM by id, with QEMU's refusals: what QMP's drive-mirror, block-job-*, job-* and
 * query-*jobs act on. It does not open targets and does not know QMP. While a job runs its nodes are closed to other
 * operations (BlockNode.blockers). Facts: docs/qemu-behaviour.md 5.8, 5.10, asked of QEMU 7.2.
 */
import { ColoError, DeviceNotActiveError } from '../../base/errors.ts';
import type { BlockNode } from '../node.ts';
import { BackupJob } from './backup.ts';
import type { BackupOptions } from './backup.ts';
import { CommitJob } from './commit.ts';
import { MAX_CHUNKS } from './disk-copier.ts';
import type { BlockJobInfo, EmitEvent, Job, JobInfo } from './job.ts';
import { MirrorJob } from './mirror.ts';
import type { MirrorOptions } from './mirror.ts';

/** QEMU's rule for ids: a letter, then letters, digits, '-', '.' and '_'. */
const WELL_FORMED_ID = /^[A-Za-z][A-Za-z0-9\-._]*$/;
const MAX_JOBS = 256;
const MIN_GRANULARITY_BYTES = 512;
const MAX_GRANULARITY_BYTES = 64 * 1024 * 1024;

export class BlockJobs {
  readonly #jobs = new Map<string, Job>();
  readonly #emit: EmitEvent;

  constructor(emit: EmitEvent) {
    this.#emit = emit;
  }

  /** Starts a mirror. Throws when the id is taken or malformed, or one of the two nodes has a job already. */
  startMirror(options: Omit<MirrorOptions, 'emit'>): MirrorJob {
    this.requireNoFilter(options.source);
    this.requireNoFilter(options.target);
    requireGranularity(options.granularityBytes, options.source.lengthBytes);
    this.checkId(options.id);
    const job = new MirrorJob({ ...options, emit: this.#emit });
    this.#begin(job, [options.source, options.target]);
    return job;
  }

  /** Starts a backup. Throws as above, and when the two nodes differ in length. */
  startBackup(options: Omit<BackupOptions, 'emit'>): BackupJob {
    this.checkId(options.id);
    const job = new BackupJob({ ...options, emit: this.#emit });
    this.#begin(job, [options.source, options.target]);
    return job;
  }

  /** Throws when a new job cannot have this id. */
  checkId(id: string): void {
    if (!WELL_FORMED_ID.test(id)) throw new ColoError(`Invalid job ID '${id}'`);
    if (this.#jobs.has(id)) throw new ColoError(`Job ID '${id}' already in use`);
    if (this.#jobs.size >= MAX_JOBS)
      throw new ColoError(`There are ${MAX_JOBS} jobs already; wait for one to end`);
  }

  /** Throws when the node is mirrored or committed already, or is a mirror (QEMU: a filter is on top of it). */
  requireNoFilter(node: BlockNode): void {
    for (const job of this.#jobs.values()) {
      if (!(job instanceof MirrorJob || job instanceof CommitJob) || isOver(job)) continue;
      if (job.source === node || job.target === node) throw new ColoError('Need a root block node');
    }
  }

  /** Takes a job made elsewhere and starts it; it leaves the list when it ends. */
  add(job: Job): void {
    this.checkId(job.id);
    this.#jobs.set(job.id, job);
    void job.ended.then(() => this.#jobs.delete(job.id));
    job.start();
  }

  find(id: string): Job | null {
    return this.#jobs.get(id) ?? null;
  }

  /** For block-job-*. Throws DeviceNotActiveError. */
  get(id: string): Job {
    const job = this.#jobs.get(id);
    if (!job) throw new DeviceNotActiveError(`Block job '${id}' not found`);
    return job;
  }

  /** For job-*. Throws ColoError. */
  getJob(id: string): Job {
    const job = this.#jobs.get(id);
    if (!job) throw new ColoError('Job not found');
    return job;
  }

  cancel(device: string, force = false): void {
    this.get(device).cancel(force);
  }

  complete(device: string): void {
    this.get(device).complete();
  }

  pause(device: string): void {
    this.get(device).pause();
  }

  resume(device: string): void {
    this.get(device).resume();
  }

  setSpeed(device: string, speed: number): void {
    this.get(device).setSpeed(speed);
  }

  /** query-block-jobs */
  list(): BlockJobInfo[] {
    return [...this.#jobs.values()].map((job) => job.info());
  }

  /** query-jobs */
  listJobs(): JobInfo[] {
    return [...this.#jobs.values()].map((job) => job.jobInfo());
  }

  vmStopped(): void {
    for (const job of this.#jobs.values()) job.vmStopped();
  }

  vmResumed(): void {
    for (const job of this.#jobs.values()) job.vmResumed();
  }

  /** Breaks all jobs off and waits until none works any more. */
  async cancelAll(): Promise<void> {
    const jobs = [...this.#jobs.values()];
    for (const job of jobs) job.abandon();
    await Promise.all(jobs.map((job) => job.concluded));
  }

  #begin(job: MirrorJob | BackupJob, nodes: readonly BlockNode[]): void {
    if (job.target.readOnly) {
      if (job.type === 'backup') throw new ColoError('Could not create node: Block node is read-only');
      job.refuse('Block node is read-only');
    }
    if (job.info().speed < 0) job.refuse("Parameter 'speed' expects a non-negative value");
    const reason = `block device is in use by block job: ${job.type}`;
    this.add(job);
    for (const node of nodes) node.blockers.set(ALL_OPERATIONS, reason);
    job.atEnd(() => {
      for (const node of nodes) {
        if (node.blockers.get(ALL_OPERATIONS) === reason) node.blockers.delete(ALL_OPERATIONS);
      }
    });
  }
}

function isOver(job: Job): boolean {
  return job.status === 'concluded' || job.status === 'null';
}

/** Throws with QEMU's texts. */
function requireGranularity(granularity: number | undefined, lengthBytes: number): void {
  if (granularity === undefined) return;
  if (granularity < MIN_GRANULARITY_BYTES || granularity > MAX_GRANULARITY_BYTES) {
    throw new ColoError("Parameter 'granularity' expects a value in range [512B, 64MB]");
  }
  if (!Number.isInteger(Math.log2(granularity))) {
    throw new ColoError("Parameter 'granularity' expects a power of 2");
  }
  if (lengthBytes / granularity > MAX_CHUNKS) {
    throw new ColoError(`Parameter 'granularity' is too small for a disk of ${lengthBytes} bytes`);
  }
}

/** Throws when somebody has forbidden `operation` on the node. `name`: the device or node name that the user knows. */
export function requireUnblocked(node: BlockNode, operation: string, name = node.nodeName): void {
  const reason = node.blockers.get(operation) ?? node.blockers.get(ALL_OPERATIONS);
  if (reason !== undefined) throw new ColoError(`Node '${name}' is busy: ${reason}`);
}

/** Key in `BlockNode.blockers` that forbids every operation. */
export const ALL_OPERATIONS = '*';
