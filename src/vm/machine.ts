/**
 * The composition root: one VM of the parts that assemble.ts has opened, then its objects, its serial port and
 * -incoming. What each part does is in its own file; this one says who knows whom, and what ends a VM.
 */
import { Deferred, withDeadline } from '../base/async.ts';
import { ColoError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { isTlsCredentialsType } from '../base/tls/objects.ts';
import type { BlockGraph } from '../block/graph.ts';
import type { BlockJobs } from '../block/jobs/manager.ts';
import type { Chardevs } from '../chardev/registry.ts';
import type { Hello } from '../checkpoint/messages.ts';
import type { ProtectedGuest } from '../checkpoint/guest.ts';
import type { Engine, ShutdownCause } from '../engine/engine.ts';
import { Announcer } from '../net/announcer.ts';
import type { Netdev } from '../net/netdev.ts';
import { assemble, withOrigin } from './assemble.ts';
import type { Parts, VmHost } from './assemble.ts';
import { VmBlockJobs } from './block-jobs.ts';
import { compareRequestData } from './compare-event.ts';
import type { VmConfig } from './command-line/config.ts';
import { originOf } from './command-line/origin.ts';
import type { VmDisks } from './disks.ts';
import type { VmEvents } from './events.ts';
import { VmMigration } from './migration.ts';
import { NbdExports } from './nbd-exports.ts';
import type { OpenNetdevs } from './netdevs.ts';
import { VmObjects } from './objects.ts';
import { VmGuest } from './protected-guest.ts';
import { RunControl } from './run-control.ts';
import { vncAddressOf } from './vnc/address.ts';
import { VncServer } from './vnc/server.ts';
import { bridgeChardevs, connectSerial, presentPorts } from './serial.ts';

const log = loggerFor('vm');

/** How long one part may take to close: an image behind a dead server must not keep the process. */
const CLOSE_STEP_MS = 10_000;

export type { VmHost } from './assemble.ts';

export type QuitReason = 'host-qmp-quit' | 'host-signal' | 'guest-shutdown' | 'guest-panic' | 'host-error';

export class VirtualMachine {
  readonly config: VmConfig;
  readonly events: VmEvents;
  readonly chardevs: Chardevs;
  readonly graph: BlockGraph;
  readonly jobs: BlockJobs;
  readonly disks: VmDisks;
  readonly blockJobs: VmBlockJobs;
  readonly exports: NbdExports;
  readonly objects: VmObjects;
  readonly migration: VmMigration;
  readonly run: RunControl;
  readonly engine: Engine | null;
  /** Tells the networks where this machine's NICs are (QEMU: announce-self). */
  readonly announcer = new Announcer((interfaces) => this.#announce(interfaces));
  readonly #networks: OpenNetdevs;
  readonly #ended = new Deferred<number>();
  readonly #closers: (() => Promise<void> | void)[] = [];
  #isEnding = false;
  #vnc: VncServer | null = null;

  private constructor(config: VmConfig, parts: Parts) {
    this.config = config;
    this.events = parts.events;
    this.chardevs = parts.chardevs;
    this.graph = parts.graph;
    this.jobs = parts.jobs;
    this.disks = parts.disks;
    this.blockJobs = new VmBlockJobs(this.graph, this.jobs, (id) => this.disks.isPlugged(id));
    this.engine = parts.engine;
    this.#networks = parts.networks;
    const emit = (event: string, data?: Record<string, unknown>): void => this.emit(event, data);
    this.exports = new NbdExports(this.graph, emit, parts.tls.find);
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
      tls: parts.tls,
      chardevs: this.chardevs,
      netdevs: this.netdevs,
      hasGuest: this.engine !== null,
      onCheckpointRequest: () => this.migration.requestCheckpoint('mismatch'),
      onCompareAsked: (id, reason) => emit('COLO_COMPARE_REQUEST', compareRequestData(id, reason)),
    });
    this.migration = new VmMigration({
      guest: this.#guest(),
      run: this.run,
      describe: (colo) => this.#describe(colo),
      emit,
      setSilent: (silent) => this.#setSilent(silent),
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
      settleJobs: () => this.blockJobs.settled(),
      announce: (times) => this.announcer.start(times, null, null),
      startPaused: config.startPaused,
      tlsCredentials: parts.tls.find,
    });
    this.#wireEngine();
  }

  /**
   * Builds everything and lets nothing run. Errors name the option; what was opened before one is closed again.
   */
  static async create(config: VmConfig, host: VmHost): Promise<VirtualMachine> {
    const parts = await assemble(config, host);
    const vm = new VirtualMachine(config, parts);
    try {
      for (const options of config.objects) {
        if (isTlsCredentialsType(options['qom-type'] ?? '')) continue;
        const origin = originOf(options, `-object ${options['qom-type'] ?? ''}`);
        await withOrigin(origin, () => vm.objects.add(options));
      }
      const { serials, incoming } = config;
      // A port that is not there is not counted, on the embedded engine's one port either.
      for (const [at, serial] of presentPorts(serials).entries()) {
        const connect = (): Promise<() => void> =>
          connectSerial(vm.engine?.serials[at], serial, at, vm.chardevs);
        vm.#closers.push(await withOrigin(originOf(serial, '-serial'), connect));
      }
      vm.#closers.push(bridgeChardevs(vm.engine, vm.chardevs));
      await vm.#openVnc();
      if (incoming === 'defer') vm.#setSilent(true);
      else if (incoming !== null) {
        await withOrigin(`-incoming ${incoming}`, () => vm.migration.listen(incoming));
      }
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

  get vnc(): VncServer | null {
    return this.#vnc;
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
    if (!this.config.startPaused && this.config.incoming === null) await this.run.resume();
  }

  async stop(): Promise<void> {
    await this.run.stop('paused');
  }

  /** Throws ColoError for a guest that has ended. */
  async cont(): Promise<void> {
    const { state } = this.run;
    if (state === 'shutdown' || state === 'internal-error') {
      throw new ColoError('Resetting the Virtual Machine is required');
    }
    await this.run.resume();
  }

  async reset(): Promise<void> {
    await this.engine?.reset();
    this.run.wasReset();
    // An engine with a monitor tells of it itself.
    if (!this.engine?.monitor) this.emit('RESET', { guest: false, reason: 'host-qmp-system-reset' });
  }

  /** Presses the power button. Throws ColoError where there is none. */
  async powerdown(): Promise<void> {
    if (this.engine?.monitor) {
      await this.engine.monitor.execute('system_powerdown', {});
      return;
    }
    throw new ColoError('The v86 engine has no power button; shut the guest down from within or use quit');
  }

  /** migrate-incoming, for `-incoming defer`. Throws ColoError with QEMU's texts. */
  async listenForMigration(uri: string): Promise<void> {
    if (this.config.incoming === null)
      throw new ColoError("'-incoming' was not specified on the command line");
    if (this.config.incoming !== 'defer' || this.migration.incomingAddress !== null) {
      throw new ColoError('The incoming migration has already been started');
    }
    await this.migration.listen(uri);
  }

  /** Ends the VM: the event goes out at once, the reply to `quit` still gets through. Idempotent. */
  quit(reason: QuitReason = 'host-qmp-quit', cause: ShutdownCause = causeOf(reason)): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.emit('SHUTDOWN', { ...cause });
    const failed =
      reason === 'host-error' ||
      (cause.reason === 'guest-panic' && this.config.panicAction === 'exit-failure');
    setImmediate(() => this.#ended.resolve(failed ? 1 : 0));
  }

  async addChardev(id: string, backend: unknown): Promise<Record<string, never>> {
    await this.chardevs.addBackend(id, backend);
    return {};
  }

  /** Frees everything. Idempotent; what fails on the way is logged. */
  async close(): Promise<void> {
    const steps: (() => Promise<void> | void)[] = [
      () => this.migration.close(),
      () => this.announcer.close(),
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
        await withDeadline(Promise.resolve(step()), CLOSE_STEP_MS, 'closing a part of the VM');
      } catch (error) {
        log.warn({ err: error }, 'closing the VM');
      }
    }
  }

  /** The engine's process does not end with a panic, it pauses. */
  get #endsByPanic(): boolean {
    const { panicAction, noShutdown } = this.config;
    if (this.migration.mode === 'secondary') return false;
    return panicAction === 'exit-failure' || (panicAction === 'shutdown' && !noShutdown);
  }

  async #openVnc(): Promise<void> {
    const display = this.engine?.display;
    const { vnc } = this.config;
    if (!display || vnc === null) return;
    const server = await withOrigin(`-vnc ${vnc}`, () =>
      VncServer.open(vncAddressOf(vnc), {
        display,
        isFollowing: () => this.run.isFollower || this.run.state === 'inmigrate',
        emit: (event, data) => this.emit(event, data),
      }),
    );
    this.#vnc = server;
    this.#closers.push(() => server.close());
  }

  /** Broadcasts each NIC's address on its network. `interfaces`: ids of NICs, or null for all. */
  #announce(interfaces: readonly string[] | null): void {
    // It has moved away: they are not here any more.
    if (this.run.state === 'postmigrate') return;
    for (const { id, mac } of this.engine?.nics ?? []) {
      if (interfaces === null || interfaces.includes(id)) this.#networks.ofNic.get(id)?.announce(mac);
    }
  }

  /** A machine that waits for a guest neither hears the wire nor speaks on it. */
  #setSilent(silent: boolean): void {
    for (const netdev of this.netdevs.values()) netdev.wireEnabled = !silent;
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
      ...(engine.buildParts ? { buildParts: [...engine.buildParts] } : {}),
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
    engine.onShutdown = (reason, error, cause) => {
      if (reason === 'guest-reset') {
        this.emit('RESET', { guest: true, reason: 'guest-reset' });
        return;
      }
      if (error) log.error({ err: error }, 'the machine failed');
      if (reason === 'guest-shutdown' && this.config.noShutdown) {
        this.emit('SHUTDOWN', { ...(cause ?? { guest: true, reason }) });
        this.run.stoppedItself('shutdown');
        return;
      }
      this.run.mark(reason === 'failed' ? 'internal-error' : 'shutdown');
      this.quit(reason === 'failed' ? 'host-error' : 'guest-shutdown', cause);
    };
    engine.onStopped = (state) => {
      this.run.stoppedItself(state);
      if (state === 'guest-panicked' && this.#endsByPanic) this.quit('guest-panic');
    };
    engine.onResumed = () => this.run.resumedItself();
    if (engine.monitor) {
      engine.monitor.onEvent = (event, data, timestamp) => {
        if (this.#vnc && event.startsWith('VNC_')) {
          // Its clients are our connections.
          if (event === 'VNC_INITIALIZED') this.#vnc.initialized(data);
          return;
        }
        const isEnd = event === 'GUEST_PANICKED' && this.#endsByPanic;
        const told = isEnd ? { ...data, action: 'poweroff' } : this.disks.inOurNames(data);
        this.events.relay({ event, data: told, timestamp });
      };
    }
  }
}

function causeOf(reason: QuitReason): ShutdownCause {
  return { guest: reason.startsWith('guest-'), reason };
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
