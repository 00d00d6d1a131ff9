/**
 * The composition root: one VM assembled from its command line, in QEMU's order (chardevs, netdevs, drives, engine,
 * objects, -incoming). What each part does is in its own file; this one says who knows whom, and what ends a VM.
 */
import { readFile } from 'node:fs/promises';
import { Deferred } from '../base/async.ts';
import { ColoError, ParameterError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { BlockGraph } from '../block/graph.ts';
import { BlockJobs } from '../block/jobs/manager.ts';
import { nestOptions } from '../block/options.ts';
import { parseChardevOptions } from '../chardev/options.ts';
import { Chardevs } from '../chardev/registry.ts';
import type { Hello } from '../checkpoint/messages.ts';
import type { ProtectedGuest } from '../checkpoint/guest.ts';
import type { Engine } from '../engine/engine.ts';
import { V86Engine } from '../engine/v86/index.ts';
import type { Netdev } from '../net/netdev.ts';
import type { VmConfig } from './command-line/config.ts';
import { planDevices } from './devices.ts';
import { planDrives } from './disk-options.ts';
import { VmDisks } from './disks.ts';
import { VmEvents } from './events.ts';
import { VmMigration } from './migration.ts';
import { NbdExports } from './nbd-exports.ts';
import { openNetdevs } from './netdevs.ts';
import type { OpenNetdevs } from './netdevs.ts';
import { VmObjects } from './objects.ts';
import { VmGuest } from './protected-guest.ts';
import { RunControl } from './run-control.ts';
import { connectSerial } from './serial.ts';

const log = loggerFor('vm');

export interface VmHost {
  /** Paths of SeaBIOS and its VGA BIOS. */
  firmware(): Promise<{ bios: string; vgaBios: string }>;
  warn(text: string): void;
  /** Breaks start-up off. */
  readonly signal?: AbortSignal;
}

export type QuitReason = 'host-qmp-quit' | 'host-signal' | 'guest-shutdown' | 'host-error';

export class VirtualMachine {
  readonly config: VmConfig;
  readonly events: VmEvents;
  readonly chardevs: Chardevs;
  readonly graph: BlockGraph;
  readonly jobs: BlockJobs;
  readonly disks: VmDisks;
  readonly exports: NbdExports;
  readonly objects: VmObjects;
  readonly migration: VmMigration;
  readonly run: RunControl;
  readonly engine: Engine | null;
  readonly #networks: OpenNetdevs;
  readonly #ended = new Deferred<number>();
  readonly #closers: (() => Promise<void> | void)[] = [];

  private constructor(config: VmConfig, parts: Parts) {
    this.config = config;
    this.events = parts.events;
    this.chardevs = parts.chardevs;
    this.graph = parts.graph;
    this.jobs = parts.jobs;
    this.disks = parts.disks;
    this.engine = parts.engine;
    this.#networks = parts.networks;
    const emit = (event: string, data?: Record<string, unknown>): void => this.emit(event, data);
    this.exports = new NbdExports(this.graph, emit);
    this.run = new RunControl(
      this.engine,
      this.netdevs,
      config.incoming === null ? 'prelaunch' : 'inmigrate',
      {
        onStop: () => {
          emit('STOP');
          this.jobs.vmStopped();
        },
        onResume: () => {
          emit('RESUME');
          this.jobs.vmResumed();
        },
      },
    );
    this.objects = new VmObjects({
      chardevs: this.chardevs,
      netdevs: this.netdevs,
      hasGuest: this.engine !== null,
      onCheckpointRequest: () => this.migration.requestCheckpoint('mismatch'),
    });
    this.migration = new VmMigration({
      guest: this.#guest(),
      run: this.run,
      describe: (colo) => this.#describe(colo),
      emit,
      setSilent: (silent) => {
        for (const netdev of this.netdevs.values()) netdev.wireEnabled = !silent;
      },
      notifyFilters: (event) => {
        for (const netdev of this.netdevs.values()) netdev.notify(event);
      },
      requireComparers: () => {
        const nics = this.#networks.ofNic.size;
        const comparers = this.objects.list().filter(({ typeName }) => typeName === 'colo-compare').length;
        if (comparers < nics) {
          throw new ColoError(
            `x-colo: ${nics} NIC(s) but ${comparers} colo-compare object(s): output would leave uncompared; ` +
              'add the filters and the comparer first (object-add)',
          );
        }
      },
      settleJobs: () => this.disks.settled(),
      announce: () => this.announce(),
      startPaused: config.startPaused,
    });
    this.#wireEngine();
  }

  /**
   * Builds everything and lets nothing run. Errors name the option; what was opened before one is closed again.
   */
  static async create(config: VmConfig, host: VmHost): Promise<VirtualMachine> {
    if (config.machine === 'pc' && config.accel !== 'v86') {
      throw new ParameterError(
        `-accel ${config.accel}: only the embedded engine is built in; use -accel v86`,
      );
    }
    const parts = await assemble(config, host);
    const vm = new VirtualMachine(config, parts);
    try {
      for (const options of config.objects) {
        await option(`-object ${options['qom-type'] ?? ''}`, () => vm.objects.add(options));
      }
      if (config.serial && vm.engine)
        vm.#closers.push(await connectSerial(vm.engine, config.serial, vm.chardevs));
      if (config.incoming !== null && config.incoming !== 'defer') await vm.migration.listen(config.incoming);
    } catch (error) {
      await vm.close();
      throw error;
    }
    return vm;
  }

  get name(): string | null {
    return this.config.name;
  }

  get netdevs(): ReadonlyMap<string, Netdev> {
    return this.#networks.netdevs;
  }

  /** Resolves with the exit status when the VM is to end. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  emit(event: string, data?: Record<string, unknown>): void {
    this.events.emit(event, data);
  }

  /** Lets the guest run, unless it was told to wait (-S) or waits for another machine's state. */
  async start(): Promise<void> {
    if (!this.config.startPaused && this.config.incoming === null && this.engine) await this.run.resume();
  }

  async stop(): Promise<void> {
    await this.run.stop('paused');
  }

  async cont(): Promise<void> {
    const { state } = this.run;
    if (state === 'inmigrate') throw new ColoError('Guest is waiting for an incoming migration');
    if (state === 'shutdown' || state === 'internal-error') {
      throw new ColoError('Resetting the Virtual Machine is required');
    }
    await this.run.resume();
  }

  async reset(): Promise<void> {
    await this.engine?.reset();
    this.emit('RESET', { guest: false, reason: 'host-qmp-system-reset' });
  }

  powerdown(): void {
    throw new ColoError('The v86 engine has no power button; shut the guest down from within or use quit');
  }

  /** Ends the VM: the event goes out at once, the reply to `quit` still gets through. */
  quit(reason: QuitReason = 'host-qmp-quit'): void {
    this.emit('SHUTDOWN', { guest: reason === 'guest-shutdown', reason });
    setImmediate(() => this.#ended.resolve(reason === 'host-error' ? 1 : 0));
  }

  async addChardev(id: string, backend: unknown): Promise<Record<string, never>> {
    await this.chardevs.addBackend(id, backend);
    return {};
  }

  /** Broadcasts each NIC's address on its network, as QEMU's announce-self. */
  announce(): void {
    for (const nic of this.engine?.nics ?? []) {
      this.#networks.ofNic.get(nic.id)?.announce(nic.mac);
    }
  }

  /** Frees everything. Idempotent; what fails on the way is logged. */
  async close(): Promise<void> {
    const steps: (() => Promise<void> | void)[] = [
      () => this.migration.close(),
      () => this.engine?.stop(),
      ...this.#closers.splice(0),
      () => this.exports.close(),
      () => this.jobs.cancelAll(),
      () => this.objects.closeAll(),
      () => this.#networks.close(),
      () => this.chardevs.closeAll(),
      () => this.graph.closeAll(),
      () => this.events.close(),
    ];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        log.warn({ err: error }, 'closing the VM');
      }
    }
  }

  #guest(): ProtectedGuest {
    if (!this.engine) return NO_GUEST;
    return new VmGuest(this.engine, this.run, this.disks, this.objects);
  }

  #describe(colo: boolean): Hello {
    const { engine } = this;
    if (!engine) throw new ColoError('There is no guest to migrate (-machine none)');
    return {
      engine: engine.engineName,
      buildId: engine.buildId,
      ramBytes: engine.ramBytes,
      colo,
      disks: this.disks.guestDisks.map(({ id, lengthBytes }) => ({ id, lengthBytes })),
      nics: engine.nics.map(({ id }) => ({ id })),
    };
  }

  #wireEngine(): void {
    const { engine } = this;
    if (!engine) return;
    for (const nic of engine.nics) {
      const netdev = this.#networks.ofNic.get(nic.id);
      if (!netdev) continue;
      netdev.guest = (frame) => nic.send(frame);
      nic.onFrame = (frame) => netdev.sendFromGuest(frame);
    }
    engine.onShutdown = (reason, error) => {
      if (reason === 'guest-reset') {
        this.emit('RESET', { guest: true, reason: 'guest-reset' });
        return;
      }
      this.run.mark(reason === 'failed' ? 'internal-error' : 'shutdown');
      if (error) log.error({ err: error }, 'the machine failed');
      if (reason === 'guest-shutdown' && this.config.noShutdown) {
        this.emit('SHUTDOWN', { guest: true, reason });
        return;
      }
      this.quit(reason === 'failed' ? 'host-error' : 'guest-shutdown');
    };
  }
}

/** What is made before the VM itself, in QEMU's order. */
interface Parts {
  readonly events: VmEvents;
  readonly chardevs: Chardevs;
  readonly graph: BlockGraph;
  readonly jobs: BlockJobs;
  readonly disks: VmDisks;
  readonly networks: OpenNetdevs;
  readonly engine: Engine | null;
}

async function assemble(config: VmConfig, host: VmHost): Promise<Parts> {
  const events = new VmEvents();
  const emit = (event: string, data?: Record<string, unknown>): void => events.emit(event, data);
  const chardevs = new Chardevs();
  const graph = new BlockGraph({ emit });
  const jobs = new BlockJobs(emit);
  const disks = new VmDisks(graph, jobs, emit);
  let networks: OpenNetdevs | null = null;
  let engine: Engine | null = null;
  try {
    for (const options of config.chardevs) {
      await option(`-chardev ${options['backend'] ?? ''},id=${options['id'] ?? ''}`, async () => {
        const chardev = await chardevs.add(parseChardevOptions(options));
        if ('waitConnected' in chardev && chardev.config.wait) await chardev.waitConnected(host.signal);
      });
    }
    const devices = planDevices(config.devices);
    for (const warning of devices.warnings) host.warn(warning);
    networks = await openNetdevs(config.netdevs, devices.nics, emit);
    for (const options of config.blockdevs) {
      await option('-blockdev', () => graph.addNode(nestOptions(options)));
    }
    const plugged: { id: string; position: number }[] = [];
    for (const drive of planDrives(config.drives)) {
      if (drive.warning !== null) host.warn(drive.warning);
      await option(`-drive id=${drive.id}`, () => graph.addDrive(drive.id, nestOptions(drive.options)));
      if (drive.position !== null) plugged.push({ id: drive.id, position: drive.position });
    }
    const disksInOrder = [
      ...plugged.sort((a, b) => a.position - b.position).map(({ id }) => id),
      ...devices.disks,
    ].map((id) => disks.plug(id));

    if (config.machine === 'pc') {
      const { bios, vgaBios } = await host.firmware();
      engine = new V86Engine({
        name: config.name ?? 'guest',
        ramBytes: config.memoryBytes,
        bios: await readFile(config.bios ?? bios),
        vgaBios: await readFile(vgaBios),
        disks: disksInOrder,
        nics: devices.nics.map(({ id, model, mac }, at) => ({ id, model, mac: mac ?? defaultMac(at) })),
        ...(config.noReboot ? { onGuestReset: 'pause' as const } : {}),
      });
      await engine.start();
    } else if (disksInOrder.length > 0 && devices.disks.length > 0) {
      throw new ParameterError("-device: No 'IDE' bus found for device 'ide-hd'");
    }
    return { events, chardevs, graph, jobs, disks, networks, engine };
  } catch (error) {
    await engine?.stop();
    await networks?.close();
    await chardevs.closeAll();
    await graph
      .closeAll()
      .catch((cause: unknown) => log.warn({ err: cause }, 'closing after a failed start'));
    events.close();
    throw error;
  }
}

/** Puts the option in front of what went wrong with it, as QEMU does. */
async function option<T>(name: string, act: () => Promise<T> | T): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    throw new ColoError(`${name}: ${messageOf(cause)}`, { cause });
  }
}

/** QEMU's: 52:54:00:12:34:56 and following, so that both sides of a pair agree without being told. */
function defaultMac(at: number): Uint8Array {
  return Uint8Array.from([0x52, 0x54, 0x00, 0x12, 0x34, 0x56 + at]);
}

const NO_GUEST: ProtectedGuest = {
  get engine(): never {
    throw new ColoError('There is no guest (-machine none)');
  },
  pause: () => Promise.resolve(),
  resume: () => Promise.resolve(),
  disks: () => [],
  networks: () => [],
};
