/**
 * The VM's side of the block graph: the guest's disks as the engine sees them, replication nodes as participants of a
 * checkpoint. Jobs that monitors start are in block-jobs.ts.
 */
import { ColoError, ERRNO_TEXT, ParameterError, errnoOf } from '../base/errors.ts';
import type { CheckpointParticipant } from '../base/participant.ts';
import { findReplications, isReplication } from '../block/drivers/replication.ts';
import { deviceName, parentUser } from '../block/graph.ts';
import type { BlockBackend, BlockGraph } from '../block/graph.ts';
import type { WriteFlags } from '../block/driver.ts';
import type { BlockJobs } from '../block/jobs/manager.ts';
import { nestDriveOptions } from '../block/drive-options.ts';
import { nestOptions } from '../block/options.ts';
import { PartedBitmaps } from '../block/parted.ts';
import type { EngineDisk } from '../engine/engine.ts';
import { QuorumDriver } from '../block/drivers/quorum.ts';
import { checkDrive } from './disk-options.ts';
import { DiskStats } from './disk-stats.ts';

const KEEP: WriteFlags = { unmap: false };
const UNMAP: WriteFlags = { unmap: true };

/** A device that shows a disk: `driver` is its -device name, `id` its id, if it has one. */
export interface DiskUser {
  readonly driver: string;
  readonly id: string | null;
  /** The engine tells of I/O errors itself. */
  readonly tellsErrors?: boolean;
}

type Emit = (event: string, data: Record<string, unknown>) => void;

/**
 * A guest disk on a block backend; follows the backend when a job makes it show another node. Writes by zeros and
 * discards are counted as QEMU does: zeros with the writes, discards by themselves.
 */
export class GuestDisk implements EngineDisk {
  /** Its drive's id, or the name of the node that it was plugged on. */
  readonly id: string;
  readonly backend: BlockBackend;
  readonly stats = new DiskStats();
  /** The `id=` of its `-device`, if there is one. */
  readonly deviceId: string | null;
  /** Null: the engine itself tells of errors, for it decides what becomes of them. */
  readonly #emit: Emit | null;

  constructor(backend: BlockBackend, emit: Emit | null, deviceId: string | null = null) {
    this.backend = backend;
    this.id = deviceName(backend) || backend.root.nodeName;
    this.deviceId = deviceId;
    this.#emit = emit;
  }

  get lengthBytes(): number {
    return this.backend.root.lengthBytes;
  }

  get readOnly(): boolean {
    return this.backend.root.readOnly;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const startMs = performance.now();
    if (!this.backend.gate.isOpen) await this.backend.gate.pass();
    try {
      await this.backend.root.read(offset, target);
    } catch (error) {
      this.stats.ended('rd', target.byteLength, startMs, false);
      this.#failed('read', error);
    }
    this.stats.ended('rd', target.byteLength, startMs, true);
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    const startMs = performance.now();
    if (!this.backend.gate.isOpen) await this.backend.gate.pass();
    try {
      await this.backend.root.write(offset, source);
    } catch (error) {
      this.stats.ended('wr', source.byteLength, startMs, false);
      this.#failed('write', error);
    }
    this.stats.ended('wr', source.byteLength, startMs, true);
  }

  async flush(): Promise<void> {
    const startMs = performance.now();
    if (!this.backend.gate.isOpen) await this.backend.gate.pass();
    try {
      await this.backend.root.flush();
    } catch (error) {
      this.stats.ended('flush', 0, startMs, false);
      this.#failed('write', error);
    }
    this.stats.ended('flush', 0, startMs, true);
  }

  async writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    const startMs = performance.now();
    if (!this.backend.gate.isOpen) await this.backend.gate.pass();
    try {
      await this.backend.root.writeZeroes(offset, length, unmap ? UNMAP : KEEP);
    } catch (error) {
      this.stats.ended('wr', length, startMs, false);
      this.#failed('write', error);
    }
    this.stats.ended('wr', length, startMs, true);
  }

  async discard(offset: number, length: number): Promise<void> {
    const startMs = performance.now();
    if (!this.backend.gate.isOpen) await this.backend.gate.pass();
    try {
      await this.backend.root.discard(offset, length);
    } catch (error) {
      this.stats.ended('unmap', length, startMs, false);
      this.#failed('write', error);
    }
    this.stats.ended('unmap', length, startMs, true);
  }

  /** As QEMU with werror/rerror=report: an event for the manager, an error for the guest. */
  #failed(operation: 'read' | 'write', error: unknown): never {
    if (!this.#emit) throw error;
    const errno = errnoOf(error);
    this.#emit('BLOCK_IO_ERROR', {
      device: deviceName(this.backend),
      'node-name': this.backend.root.nodeName,
      operation,
      action: 'report',
      nospace: errno === 'ENOSPC',
      reason: ERRNO_TEXT[errno],
    });
    throw error;
  }
}

export class VmDisks {
  readonly #graph: BlockGraph;
  readonly #jobs: BlockJobs;
  readonly #guestDisks = new Map<string, GuestDisk>();
  readonly #emit: Emit;
  readonly #parted: PartedBitmaps;

  constructor(graph: BlockGraph, jobs: BlockJobs, emit: Emit) {
    this.#graph = graph;
    this.#parted = new PartedBitmaps(graph);
    this.#jobs = jobs;
    this.#emit = emit;
  }

  get guestDisks(): readonly GuestDisk[] {
    return [...this.#guestDisks.values()];
  }

  /** Whether the guest has the backend of that id. */
  isPlugged(backendId: string): boolean {
    return this.guestDisks.some(({ backend }) => backend.id === backendId);
  }

  /** Puts a drive or a node behind a guest disk. Throws ParameterError when there is no such thing. */
  plug(name: string, { driver, id, tellsErrors }: DiskUser = { driver: 'ide-hd', id: null }): GuestDisk {
    if (this.#guestDisks.has(name))
      throw new ParameterError(`Drive '${name}' is already in use by another device`);
    const backend = this.#graph.findBackend(name) ?? this.#graph.addDevice(name);
    if (!backend) throw new ParameterError(`Property '${driver}.drive' can't find value '${name}'`);
    const disk = new GuestDisk(backend, tellsErrors === true ? null : this.#emit, id);
    this.#guestDisks.set(name, disk);
    return disk;
  }

  /** An event of an engine about a disk, with the name that the disk's node has now and here. */
  inOurNames(data: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
    const name = data['device'] === '' ? data['node-name'] : data['device'];
    const disk = typeof name === 'string' ? this.#guestDisks.get(name) : undefined;
    if (!disk || data['node-name'] === undefined) return data;
    return { ...data, 'node-name': disk.backend.root.nodeName };
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
      this.#parted.watch(driver);
      return driver.participant;
    });
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
      const leaving = parent.driver.children().get(change.child)?.driver;
      if (leaving && isReplication(leaving)) this.#parted.watch(leaving);
      const node = driver.removeChild(change.child);
      // In the same turn: writes that waited for this child end after it, and count as written after the parting.
      if (isReplication(node.driver)) node.driver.takenOut();
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
    await this.#graph.addDrive(id, nestDriveOptions(options));
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
