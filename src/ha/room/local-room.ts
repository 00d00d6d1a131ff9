/**
 * The machine room of this host: `colo vm` processes that outlive the daemon, found again by the next one, and tidied up
 * after. Of each VM there is at most one process. What the guest is made of comes from `commandLines`; the room adds what
 * belongs to the process: its name, its monitor, the sockets of its first serial port and of its VNC server. TAP devices
 * need no care: a VM makes its own, and the kernel takes them away as it ends.
 *
 * One room a run folder: that two daemons do not share one is the daemon's to see to.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Mutex } from '../../base/async.ts';
import { ColoError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { PairLinks } from '../pair-links.ts';
import type { PortLease, Room, RunningVm, VmDisk } from '../room.ts';
import type { NodeConfig } from '../spec/node-config.ts';
import { displayOf } from '../spec/vm-spec.ts';
import type { VmSpec } from '../spec/vm-spec.ts';
import { launch, untilReady } from './launch.ts';
import { PortPool } from './port-pool.ts';
import { isRunning, killProcess, processesWith } from './process-identity.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { readRecord } from './process-record.ts';
import { RoomVm } from './room-vm.ts';
import { isVmName, vmPaths } from './vm-paths.ts';
import type { VmPaths } from './vm-paths.ts';

const log = loggerFor('room');

/** `colo vm`'s options for one VM, without -name, -qmp, -S, -vnc and the first -serial. */
export interface CommandLines {
  primary(spec: VmSpec, disks: readonly VmDisk[]): readonly string[];
  secondary(spec: VmSpec, disks: readonly VmDisk[], links: PairLinks): readonly string[];
}

export interface LocalRoomOptions extends Pick<
  NodeConfig,
  'address' | 'pairPorts' | 'stateFolder' | 'runFolder'
> {
  readonly commandLines: CommandLines;
  /** Of the VMs' own logs; default as COLO_LOG says. */
  readonly logLevel?: NodeConfig['logLevel'];
}

export class LocalRoom implements Room {
  readonly #options: LocalRoomOptions;
  readonly #ports: PortPool;
  readonly #vms = new Map<string, RoomVm>();
  readonly #mutexes = new Map<string, Mutex>();

  constructor(options: LocalRoomOptions) {
    this.#options = options;
    this.#ports = new PortPool(options.address, options.pairPorts);
  }

  startPrimary(spec: VmSpec, disks: readonly VmDisk[]): Promise<RunningVm> {
    return this.#start(spec, 'primary', () => this.#options.commandLines.primary(spec, disks));
  }

  startSecondary(spec: VmSpec, disks: readonly VmDisk[], links: PairLinks): Promise<RunningVm> {
    return this.#start(spec, 'secondary', () => this.#options.commandLines.secondary(spec, disks, links));
  }

  adopt(name: string): Promise<RunningVm | null> {
    return this.#alone(name, () => this.#find(name));
  }

  async names(): Promise<readonly string[]> {
    const folder = path.resolve(this.#options.runFolder, 'vms');
    try {
      const names = (await readdir(folder)).filter(isVmName);
      return names.filter((name) => existsSync(vmPaths(this.#options, name).record));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw new ColoError(`the run folder ${folder} cannot be read: ${messageOf(error)}`, { cause: error });
    }
  }

  reservePorts(count: number): Promise<PortLease> {
    return this.#ports.reserve(count);
  }

  /** Lets go of all processes, which stay. Nothing may be asked of the room afterwards. */
  close(): void {
    for (const vm of this.#vms.values()) vm.letGo();
    this.#vms.clear();
  }

  async #find(name: string): Promise<RoomVm | null> {
    const paths = vmPaths(this.#options, name);
    const known = this.#vms.get(name);
    if (known && !known.isGone) return known;
    // Its own tidying up may wait behind us.
    this.#vms.delete(name);
    const record = readRecord(paths.record);
    const isThere = record?.name === name && isRunning(record);
    await killStrays(paths, isThere ? record : null);
    if (isThere) {
      const vm = this.#keep(new RoomVm(record, paths, null), paths);
      await vm.console.opened;
      return vm;
    }
    await cleanUp(paths);
    return null;
  }

  async #start(
    spec: VmSpec,
    startedAs: RunningVm['startedAs'],
    options: () => readonly string[],
  ): Promise<RunningVm> {
    return this.#alone(spec.name, async () => {
      const { name } = spec;
      const other = await this.#find(name);
      if (other) throw new ColoError(`VM '${name}' runs on this host already (pid ${other.pid})`);
      const paths = vmPaths(this.#options, name);
      const specHash = createHash('sha256').update(JSON.stringify(spec)).digest('hex');
      try {
        mkdirSync(paths.runFolder, { recursive: true, mode: 0o700 });
        const { logLevel } = this.#options;
        const hasVnc = displayOf(spec) === 'vnc';
        const vm = launch({ name, startedAs, specHash, options: options(), paths, logLevel, hasVnc });
        this.#keep(vm, paths);
        await untilReady(vm);
        return vm;
      } catch (error) {
        await cleanUp(paths);
        throw error;
      }
    });
  }

  /** Remembers it, and tidies up when it is gone. */
  #keep(vm: RoomVm, paths: VmPaths): RoomVm {
    this.#vms.set(vm.name, vm);
    void vm.exited.then(() =>
      this.#alone(vm.name, async () => {
        if (this.#vms.get(vm.name) !== vm) return;
        this.#vms.delete(vm.name);
        await cleanUp(paths);
      }),
    );
    return vm;
  }

  /** One thing at a time with one VM. */
  #alone<T>(name: string, section: () => Promise<T>): Promise<T> {
    const mutex = this.#mutexes.get(name) ?? new Mutex();
    this.#mutexes.set(name, mutex);
    return mutex.run(section);
  }
}

/**
 * Processes of this VM that no record tells of: a daemon died between the start and the record, or the run folder was
 * emptied. Nobody can speak to them, and they have the disks open.
 */
async function killStrays(paths: VmPaths, known: ProcessIdentity | null): Promise<void> {
  for (const stray of processesWith(paths.qmpWord)) {
    if (stray.pid === known?.pid) continue;
    log.warn(`killing process ${stray.pid}, which has the monitor ${paths.qmp} and no record`);
    killProcess(stray);
    while (isRunning(stray)) await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Sockets and the record: the folder has files of others. A failure is told and no more: a start makes them anew. */
async function cleanUp(paths: VmPaths): Promise<void> {
  for (const file of [
    paths.qmp,
    paths.serial,
    paths.console,
    paths.vnc,
    paths.record,
    `${paths.record}.next`,
  ]) {
    try {
      await rm(file, { force: true });
    } catch (error) {
      log.warn(`${file} cannot be removed: ${messageOf(error)}`);
    }
  }
}
