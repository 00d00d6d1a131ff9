/**
 * The VM's side of the block graph: the guest's disks as the engine sees them, replication nodes as participants of a
 * checkpoint, and the jobs that monitors start.
 */
import { withDeadline } from '../base/async.ts';
import { ColoError, ERRNO_TEXT, ParameterError, errnoOf } from '../base/errors.ts';
import type { CheckpointParticipant } from '../base/participant.ts';
import { findReplications } from '../block/drivers/replication.ts';
import { parentUser } from '../block/graph.ts';
import type { BlockBackend, BlockGraph } from '../block/graph.ts';
import type { Job } from '../block/jobs/job.ts';
import { requireUnblocked } from '../block/jobs/manager.ts';
import type { BlockJobs } from '../block/jobs/manager.ts';
import { nestOptions } from '../block/options.ts';
import type { EngineDisk } from '../engine/engine.ts';
import { loggerFor } from '../base/logger.ts';
import { QuorumDriver } from '../block/drivers/quorum.ts';
import { checkDrive } from './disk-options.ts';

type Emit = (event: string, data: Record<string, unknown>) => void;

const SETTLE_MS = 30_000;
const log = loggerFor('disks');

/** What query-blockstats counts; bytes and requests since the start. */
export interface DiskStats {
  readBytes: number;
  readRequests: number;
  writtenBytes: number;
  writeRequests: number;
  flushRequests: number;
  failed: number;
}

/** A guest disk on a block backend; follows the backend when a job makes it show another node. */
export class GuestDisk implements EngineDisk {
  readonly backend: BlockBackend;
  readonly stats: DiskStats = {
    readBytes: 0,
    readRequests: 0,
    writtenBytes: 0,
    writeRequests: 0,
    flushRequests: 0,
    failed: 0,
  };
  readonly #emit: Emit;

  constructor(backend: BlockBackend, emit: Emit) {
    this.backend = backend;
    this.#emit = emit;
  }

  get id(): string {
    return this.backend.id;
  }

  get lengthBytes(): number {
    return this.backend.root.lengthBytes;
  }

  get readOnly(): boolean {
    return this.backend.root.readOnly;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    this.stats.readRequests++;
    this.stats.readBytes += target.byteLength;
    await this.backend.root.read(offset, target).catch((error: unknown) => this.#failed('read', error));
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    this.stats.writeRequests++;
    this.stats.writtenBytes += source.byteLength;
    await this.backend.root.write(offset, source).catch((error: unknown) => this.#failed('write', error));
  }

  async flush(): Promise<void> {
    this.stats.flushRequests++;
    await this.backend.root.flush().catch((error: unknown) => this.#failed('write', error));
  }

  /** As QEMU with werror/rerror=report: an event for the manager, an error for the guest. */
  #failed(operation: 'read' | 'write', error: unknown): never {
    this.stats.failed++;
    const errno = errnoOf(error);
    this.#emit('BLOCK_IO_ERROR', {
      device: this.id,
      'node-name': this.backend.root.nodeName,
      operation,
      action: 'report',
      nospace: errno === 'ENOSPC',
      reason: ERRNO_TEXT[errno],
    });
    throw error;
  }
}

export interface MirrorRequest {
  readonly device: string;
  readonly job: string;
  readonly target: string;
  readonly sync: 'full' | 'top' | 'none';
  readonly format?: string;
  readonly speed?: number;
}

export class VmDisks {
  readonly #graph: BlockGraph;
  readonly #jobs: BlockJobs;
  readonly #guestDisks = new Map<string, GuestDisk>();
  readonly #emit: Emit;
  /** Mirror jobs by id → the end of the job and the closing of its target. */
  readonly #mirrors = new Map<string, Promise<void>>();
  /** Those of them that were told to end and have not yet. */
  readonly #ending = new Set<Promise<void>>();

  constructor(graph: BlockGraph, jobs: BlockJobs, emit: Emit) {
    this.#graph = graph;
    this.#jobs = jobs;
    this.#emit = emit;
  }

  get guestDisks(): readonly GuestDisk[] {
    return [...this.#guestDisks.values()];
  }

  /** Puts a drive behind a guest disk. Throws ParameterError when there is no such drive. */
  plug(id: string): GuestDisk {
    const backend = this.#graph.findBackend(id);
    if (!backend) throw new ParameterError(`Property 'ide-hd.drive' can't find value '${id}'`);
    if (this.#guestDisks.has(id))
      throw new ParameterError(`Drive '${id}' is already in use by another device`);
    const disk = new GuestDisk(backend, this.#emit);
    this.#guestDisks.set(id, disk);
    return disk;
  }

  /** The replication nodes, newest first, for a manager that drives them itself. */
  replications(): ReturnType<typeof findReplications> {
    this.participants(); // so that their jobs are this VM's
    return findReplications(this.#graph.list().nodes);
  }

  /** The replication nodes as participants; the commit job of a failover shows up among the VM's jobs. */
  participants(): CheckpointParticipant[] {
    return findReplications(this.#graph.list().nodes).map((driver) => {
      driver.onJob = (job) => this.#jobs.add(job);
      driver.onDetach = (node, user) => this.#graph.detach(node, user);
      return driver.participant;
    });
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
        this.#mirrors.delete(job.id);
        this.#ending.delete(closed);
      });
    this.#mirrors.set(job.id, closed);
  }

  cancelJob(id: string, force: boolean): void {
    this.#jobs.cancel(id, force);
    const closed = this.#mirrors.get(id);
    if (closed) this.#ending.add(closed);
  }

  /**
   * Resolves when every job that was told to end has ended: a mirror that is being cut must be whole before the
   * secondary is built on its target.
   */
  async settled(): Promise<void> {
    await withDeadline(Promise.all(this.#ending), SETTLE_MS, 'a block job that was cancelled');
  }

  /** x-blockdev-change. Exactly one of `child` and `node` is given; checked by the caller. */
  async changeQuorum(parentName: string, change: { child: string } | { node: string }): Promise<void> {
    const parent = this.#graph.require(parentName);
    const driver = parent.driver;
    if ('child' in change) {
      if (!parent.driver.children().has(change.child)) {
        throw new ColoError(`Node '${parentName}' does not have child '${change.child}'`);
      }
      if (!(driver instanceof QuorumDriver)) {
        throw new ColoError(`The node ${parent.nodeName} does not support removing a child`);
      }
      const node = driver.removeChild(change.child);
      await this.#graph.detach(node, parentUser(parent.nodeName, change.child));
      return;
    }
    const node = this.#graph.findNode(change.node);
    if (!node) throw new ColoError(`Node '${change.node}' not found`);
    if (!(driver instanceof QuorumDriver)) {
      throw new ColoError(`The node ${parent.nodeName} does not support adding a child`);
    }
    if (node.users.size > 0) throw new ColoError(`The node ${change.node} already has a parent`);
    const role = driver.addChild(node);
    this.#graph.attach(node, parentUser(parent.nodeName, role));
  }

  /** drive_add: `-n` adds a node, otherwise a drive. */
  async addFromOptions(options: Readonly<Record<string, string>>, nodeOnly: boolean): Promise<void> {
    if (nodeOnly) {
      await this.#graph.addNode(nestOptions(options));
      return;
    }
    const bus = checkDrive(options, 'none');
    if (bus !== 'none') throw new ParameterError(`Can't hot-add drive to type ${bus}; use if=none`);
    const id = options['id'];
    if (id === undefined) throw new ParameterError("Parameter 'id' is missing");
    if (this.#graph.findBackend(id)) throw new ColoError(`Duplicate ID '${id}' for drive`);
    await this.#graph.addDrive(id, nestOptions(options));
  }

  /** blockdev-del. Throws ColoError with QEMU's texts. */
  async removeNode(name: string): Promise<void> {
    const node = this.#graph.findNode(name);
    if (!node) throw new ColoError(`Failed to find node with node-name='${name}'`);
    if ([...node.users].some((user) => user.startsWith('drive:') || user.startsWith('export:'))) {
      throw new ColoError(`Node ${name} is in use`);
    }
    await this.#graph.removeNode(name);
  }

  /** drive_del: a device or a node of the monitor. */
  async remove(name: string): Promise<void> {
    if (this.#guestDisks.has(name)) throw new ColoError(`Block device ${name} is in use`);
    if (this.#graph.findBackend(name)) await this.#graph.removeDrive(name);
    else await this.#graph.removeNode(name);
  }
}
