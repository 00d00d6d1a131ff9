/**
 * The daemon of one host: opens what it needs, looks at the registry, and lets a controller look after each VM that
 * concerns this host. The guests are processes of their own: they go on when it ends, and the next one takes them up again.
 */
import { rm } from 'node:fs/promises';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { messageOf, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { hostAndPort } from '../api/address.ts';
import { EventLog, type NewEvent } from '../api/events.ts';
import { forwarding } from '../api/forward.ts';
import type { NodeClientOptions } from '../api/client-transport.ts';
import { NodeClient } from '../api/http-client.ts';
import { ApiServer } from '../api/http-server.ts';
import { MetricsServer } from '../api/metrics-server.ts';
import { NodeMetrics } from '../api/metrics.ts';
import { API_VERSION, type EventQuery, type Health } from '../api/service.ts';
import { readTlsMaterial, type TlsMaterial } from '../api/tls.ts';
import { openArbiter } from '../ha/arbiter/open-arbiter.ts';
import { Heartbeats, Witness } from '../ha/beat/index.ts';
import { firstPrimaryArguments, secondaryArguments } from '../ha/command-line.ts';
import { VIEW_VERSION, type Arbiter, type HostView, type VmEntry, type VmView } from '../ha/index.ts';
import { chooseSecondary } from '../ha/placement.ts';
import type { Registry, Versioned } from '../ha/registry/index.ts';
import { openRegistry } from './open-registry.ts';
import { LocalRoom } from '../ha/room/index.ts';
import { makeTlsFolder } from '../ha/tls-folder.ts';
import { ensureSeabios } from '../guest/host-tools.ts';
import type { HostFacts } from '../ha/spec/facts.ts';
import { gatherFacts } from '../ha/spec/gather.ts';
import type { NodeConfig } from '../ha/spec/node-config.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { EventHost } from './all-events.ts';
import { Controller } from './controller.ts';
import { serveDashboard, type NodeDashboard } from './dashboard.ts';
import { NodeSource } from './dashboard-source.ts';
import { NodeServices } from './node-service.ts';
import type { ControllerParts, VmDisks } from './parts.ts';
import { OwnBeats } from './own-beats.ts';
import { loadSide, saveSide } from './side-file.ts';
import { SpecStore } from './spec-store.ts';
import { QMP_STEPS } from './steps.ts';
import { openDisks } from './vm-disks.ts';
import { timed, type TimedArbiter } from './timed-arbiter.ts';

/** Between two looks at everything; changes are looked at when they are told. */
const TICK_MS = 1_000;
/** Hosts that are looked at for a new secondary. */
const CANDIDATES = 64;
/** Hosts to which heartbeats are kept up though no VM is shared with them. */
const WATCHED_ANYWAY = 8;

const log = loggerFor('node');

interface Looked {
  readonly controller: Controller;
  /** As last told to the registry. */
  told: string;
}

export class Daemon {
  readonly config: NodeConfig;
  readonly registry: Registry;
  readonly arbiter: TimedArbiter;
  readonly events: EventLog;
  readonly metrics: NodeMetrics;
  readonly #room: LocalRoom;
  readonly #specs: SpecStore;
  readonly #beats: Heartbeats;
  readonly #ownBeats = new OwnBeats((beat) => this.#beats.tell(beat));
  readonly #witness: Witness;
  readonly #tls: TlsMaterial | undefined;
  readonly #looked = new Map<string, Looked>();
  readonly #opening = new Map<string, Promise<Controller>>();
  /** Of every host that was ever heard of: one whose registration has run out may still have a running copy. */
  readonly #addresses = new Map<string, string>();
  readonly #clients = new Map<string, NodeClient>();
  /** For calls that people made here; what they ask of another host is not asked on by it. */
  readonly #forwarders = new Map<string, NodeClient>();
  readonly #servers: { close(): Promise<void> }[] = [];
  readonly #began = performance.now();
  #hosts: readonly HostView[] = [];
  #entries = new Map<string, Versioned<VmEntry>>();
  #registryTrouble: string | null = null;
  #timer: NodeJS.Timeout | null = null;
  #looking: Promise<void> | null = null;
  #next: Promise<void> | null = null;
  #stopWatching: (() => void) | null = null;
  #apiAddress = '';
  #dashboard: NodeDashboard | null = null;
  #isClosed = false;

  private constructor(
    config: NodeConfig,
    opened: { registry: Registry; arbiter: Arbiter; events: EventLog; tls: TlsMaterial | undefined },
  ) {
    this.config = config;
    this.registry = opened.registry;
    this.events = opened.events;
    this.#tls = opened.tls;
    this.metrics = new NodeMetrics(
      { vms: () => Promise.resolve(this.ownViews()), host: () => Promise.resolve(this.hostView()) },
      { silences: () => this.#silences() },
    );
    this.arbiter = timed(opened.arbiter, this.metrics);
    this.#specs = new SpecStore(config.stateFolder);
    this.#room = new LocalRoom({
      ...config,
      commandLines: { primary: firstPrimaryArguments, secondary: secondaryArguments },
    });
    this.#beats = new Heartbeats({
      host: config.name,
      ...config.heartbeat,
      ...(config.tls ? { tls: config.tls } : {}),
      report: () => this.#ownBeats.report(),
      hooks: {
        onVmDied: (host, vm) => this.#looked.get(vm.name)?.controller.onPeerDied(host),
        onSilent: (host, ms) =>
          this.#tell({ type: 'host-silent', reason: `no heartbeat from ${host}`, data: { host, ms } }),
        onBack: (host) =>
          this.#tell({ type: 'host-heard', reason: `heartbeats from ${host}`, data: { host } }),
        onClosed: (host, isOrderly) =>
          this.#tell({
            type: 'host-closed',
            reason: isOrderly ? `the daemon of ${host} ends on purpose` : `the daemon of ${host} is gone`,
            data: { host, isOrderly },
          }),
        onStoodStill: (ms) => {
          this.#witness.stoodStill();
          if (ms < config.heartbeat.patienceMs) return;
          this.#tell({ type: 'stood-still', reason: `this daemon did not run for ${Math.round(ms)} ms` });
        },
      },
    });
    this.#witness = new Witness({
      heartbeats: this.#beats,
      apiOf: (host) => {
        const api = this.#hosts.find(({ name }) => name === host)?.api;
        return api === undefined ? null : addressOf(api);
      },
      reachesArbiter: () => this.arbiter.isReached(),
      patienceMs: config.heartbeat.patienceMs,
    });
  }

  /** Throws ParameterError for what the configuration has wrong, BusyError when a daemon runs already. */
  static async start(config: NodeConfig): Promise<Daemon> {
    for (const folder of [config.stateFolder, config.runFolder]) makeFolder(folder);
    const tls = config.tls ? await readTlsMaterial(config.tls) : undefined;
    if (config.tls) await makeTlsFolder(config.tls, tlsFolder(config));
    const daemon = new Daemon(config, {
      arbiter: await openArbiter(config.arbiter),
      registry: await openRegistry(config.arbiter),
      events: EventLog.open(config.stateFolder, config.name),
      tls,
    });
    try {
      await daemon.#start();
    } catch (error) {
      await daemon.close();
      throw error;
    }
    return daemon;
  }

  /** `HOST:PORT`. */
  get apiAddress(): string {
    return this.#apiAddress;
  }

  get hosts(): readonly HostView[] {
    return this.#hosts;
  }

  controller(name: string): Controller | null {
    return this.#looked.get(name)?.controller ?? null;
  }

  controllers(): Controller[] {
    return [...this.#looked.values()].map(({ controller }) => controller);
  }

  /** For a VM that concerns this host from now on. */
  async controllerFor(spec: VmSpec): Promise<Controller> {
    const found = this.#looked.get(spec.name);
    if (found) return found.controller;
    let opening = this.#opening.get(spec.name);
    if (!opening) {
      opening = this.#open(spec).finally(() => this.#opening.delete(spec.name));
      this.#opening.set(spec.name, opening);
    }
    return opening;
  }

  peer(host: string): NodeClient {
    const address = this.#addresses.get(host);
    if (address === undefined) throw new ParameterError(`host '${host}' is not known: is its node running?`);
    return this.#clientAt(address, this.#clients, {});
  }

  #clientAt(address: string, among: Map<string, NodeClient>, options: NodeClientOptions): NodeClient {
    let client = among.get(address);
    if (!client) {
      client = new NodeClient(address, { ...(this.#tls ? { tls: this.#tls } : {}), ...options });
      among.set(address, client);
    }
    return client;
  }

  /** Of a host whose heartbeats arrive; null: they do not, or it has not registered yet. */
  addressOfHeard(host: string): string | null {
    return this.#beats.peer(host).isConnected ? (this.#addresses.get(host) ?? null) : null;
  }

  #eventHosts(own: NodeServices): EventHost[] {
    const others = this.#hosts.filter(({ name, isAlive }) => isAlive && name !== this.config.name);
    return [
      { name: this.config.name, events: (query) => own.events(query) },
      ...others.map(({ name }) => ({ name, events: (query: EventQuery) => this.peer(name).events(query) })),
    ];
  }

  /** Views of the VMs of which this host has something. */
  ownViews(): VmView[] {
    return this.controllers().map((controller) => controller.view());
  }

  hostView(): HostView {
    const { config } = this;
    const busy = this.controllers().filter(({ isIdle }) => !isIdle);
    const used = busy.reduce((sum, { spec }) => sum + spec.memoryMiB, 0);
    const count = (phases: readonly string[]): number =>
      busy.filter(({ side }) => phases.includes(side.phase)).length;
    return {
      version: VIEW_VERSION,
      name: config.name,
      api: this.#apiAddress,
      heartbeat: hostAndPort(config.heartbeat.address, this.#beats.port),
      software: SOFTWARE,
      isAlive: true,
      isInMaintenance: this.#hosts.find(({ name }) => name === config.name)?.isInMaintenance ?? false,
      memoryMiB: config.memoryMiB,
      freeMemoryMiB: Math.max(0, config.memoryMiB - used),
      vms: {
        primary: count(['alone', 'arming', 'pairing', 'primary']),
        secondary: count(['joining', 'secondary']),
      },
    };
  }

  health(): Health {
    const troubles = [
      ...(this.#registryTrouble === null ? [] : [`the registry: ${this.#registryTrouble}`]),
      ...this.ownViews()
        .filter(({ state }) => state === 'blocked' || state === 'dissolving')
        .map(({ name, state, reason }) => `VM '${name}' is ${state}: ${reason}`),
    ];
    return {
      version: API_VERSION,
      software: SOFTWARE,
      host: this.config.name,
      isHealthy: troubles.length === 0,
      troubles,
      ...(this.#dashboard ? { dashboard: this.#dashboard.place } : {}),
    };
  }

  /** Looks at everything anew; resolves when that has been done once. */
  async look(): Promise<void> {
    const before = this.#looking;
    if (before) {
      // What changed after it began has to be seen too; one more look is enough for all who ask meanwhile.
      const again = (): Promise<void> => {
        this.#next = null;
        return this.look();
      };
      this.#next ??= before.then(again, again);
      await this.#next;
      return;
    }
    if (this.#isClosed) return;
    this.#looking = this.#lookNow().finally(() => (this.#looking = null));
    await this.#looking;
  }

  /** A VM that was removed leaves nothing behind. */
  async forget(name: string): Promise<void> {
    const looked = this.#looked.get(name);
    if (looked) {
      await looked.controller.purge();
      this.#ownBeats.forget(name);
      looked.controller.close();
      this.#looked.delete(name);
    }
    await rm(path.join(this.config.stateFolder, 'vms', name), { recursive: true, force: true });
  }

  facts(spec: VmSpec): Promise<HostFacts> {
    const { memoryMiB, freeMemoryMiB } = this.hostView();
    return gatherFacts(spec, this.config, {
      software: SOFTWARE,
      takenMiB: memoryMiB - freeMemoryMiB,
      askArbiter: () => this.arbiter.identity(),
      findFirmware: () => ensureSeabios({ offline: true }),
    });
  }

  logFile(name: string): string {
    return path.join(this.config.stateFolder, 'vms', name, 'vm.log');
  }

  /** The guests go on. Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#timer) clearInterval(this.#timer);
    this.#stopWatching?.();
    this.#ownBeats.stop();
    for (const controller of this.controllers()) controller.close();
    for (const server of this.#servers) await server.close();
    this.#beats.stop();
    await this.registry.withdraw().catch(() => undefined);
    await this.registry.close();
    await this.arbiter.close();
    for (const client of [...this.#clients.values(), ...this.#forwarders.values()]) await client.close();
    this.#room.close();
    this.events.close();
  }

  async #start(): Promise<void> {
    const { config } = this;
    const services = new NodeServices(this);
    const node = forwarding({
      local: services,
      locate: (vm, copy) => services.locate(vm, copy),
      locateHost: (host) => services.locateHost(host),
      clientAt: (address) => this.#clientAt(address, this.#forwarders, { isForwarded: true }),
    });
    // Whoever has the socket is the daemon of this run folder.
    this.#servers.push(
      await ApiServer.listen(
        { path: path.join(config.runFolder, 'node.sock') },
        { node, forwarded: services },
      ),
    );
    await this.#beats.start();
    await this.#adopt();
    const tcp = await ApiServer.listen(
      {
        host: config.address,
        port: config.port,
        ...(this.#tls ? { tls: this.#tls } : {}),
        names: [config.name, config.address],
      },
      { node, forwarded: services, peer: services },
    );
    this.#servers.push(tcp);
    this.#apiAddress = tcp.address;
    if (config.metrics) {
      this.#servers.push(
        await MetricsServer.listen(config.metrics, this.metrics, () => Promise.resolve(this.health())),
      );
    }
    const source = new NodeSource(node, {
      software: SOFTWARE,
      host: config.name,
      eventHosts: () => Promise.resolve(this.#eventHosts(services)),
    });
    this.#dashboard = await serveDashboard(config, source, this.#tls);
    if (this.#dashboard) this.#servers.push(this.#dashboard);
    await this.registry
      .publish(this.hostView())
      .catch((error: unknown) => this.#onRegistry(messageOf(error)));
    this.#stopWatching = this.registry.watch(() => void this.look(), { host: config.name });
    this.#timer = setInterval(() => void this.look(), TICK_MS);
    this.#tell({
      type: 'node-started',
      reason: `the daemon of ${config.name} has started`,
      data: { software: SOFTWARE },
    });
    await this.look();
  }

  /** What an earlier daemon left, running or not. */
  async #adopt(): Promise<void> {
    const names = new Set([...(await this.#room.names()), ...this.#specs.names()]);
    for (const name of names) {
      const spec = this.#specs.read(name);
      if (spec) await (await this.controllerFor(spec)).adopt();
    }
  }

  async #lookNow(): Promise<void> {
    await this.#refresh();
    if (this.#isClosed) return;
    for (const [name, { value }] of this.#entries) {
      const concernsMe = value.home === this.config.name || this.#looked.has(name);
      if (concernsMe) await this.#concern(value.spec);
    }
    for (const controller of this.controllers()) {
      const entry = this.#entries.get(controller.name)?.value ?? null;
      // A registry that cannot be asked is no reason to stop anything. Not waited for: one VM's troubles are its own.
      if (entry !== null || this.#registryTrouble === null) void controller.tick(entry);
      this.#ownBeats.look(controller);
    }
    await this.#publish();
  }

  /** A folder that cannot be read is that VM's trouble; it is tried again at the next look. */
  async #concern(spec: VmSpec): Promise<void> {
    try {
      await this.controllerFor(spec);
    } catch (error) {
      log.error({ vm: spec.name, err: error }, 'what is here of a VM cannot be looked after');
    }
  }

  async #refresh(): Promise<void> {
    try {
      const named = [...this.#looked.values()].flatMap(({ controller: { side, spec } }) => [
        ...(side.peer === null ? [] : [side.peer]),
        ...spec.hosts,
      ]);
      this.#hosts = await this.registry.someHosts(CANDIDATES, [this.config.name, ...named]);
      for (const { name, api } of this.#hosts) this.#addresses.set(name, api);
      const entries = new Map<string, Versioned<VmEntry>>();
      for (const entry of await this.registry.entriesOf(this.config.name))
        entries.set(entry.value.spec.name, entry);
      for (const name of this.#looked.keys()) {
        if (entries.has(name)) continue;
        const entry = await this.registry.entry(name);
        if (entry) entries.set(name, entry);
      }
      this.#entries = entries;
      this.#onRegistry(null);
    } catch (error) {
      this.#onRegistry(messageOf(error));
    }
    this.#listenToHosts();
  }

  /** Heartbeats are kept up with whom a VM is shared, and with a few others, who can say whom they hear. */
  #listenToHosts(): void {
    const shared = new Set(this.controllers().flatMap(({ side }) => (side.peer === null ? [] : [side.peer])));
    let others = 0;
    for (const { name, heartbeat, isAlive } of this.#hosts) {
      if (name === this.config.name) continue;
      if (!shared.has(name) && (!isAlive || others++ >= WATCHED_ANYWAY)) continue;
      this.#beats.watch(name, addressOf(heartbeat));
    }
  }

  async #publish(): Promise<void> {
    try {
      await this.registry.publish(this.hostView());
      for (const looked of this.#looked.values()) {
        const view = looked.controller.view();
        if (!this.#isMineToTell(looked.controller, view, looked.told)) continue;
        const outline = `${view.state} ${view.primary ?? ''}`;
        looked.told = (await this.registry.publishVm(view)) ? outline : '';
      }
    } catch (error) {
      this.#onRegistry(messageOf(error));
    }
  }

  /**
   * The one that is heard, or is about to be, speaks for the VM; when there is none, the one that was last, or that would
   * start it if it could. The registry takes no word of an epoch that is over.
   */
  #isMineToTell({ side: { phase } }: Controller, view: VmView, told: string): boolean {
    if (phase === 'secondary' || phase === 'joining') return false;
    if (phase !== 'idle') return true;
    const entry = this.#entries.get(view.name)?.value;
    const wouldStart = view.state === 'blocked' && view.epoch > 0;
    return told !== '' || wouldStart || entry?.home === this.config.name;
  }

  async #open(spec: VmSpec): Promise<Controller> {
    const disks = await openDisks(path.join(this.config.stateFolder, 'vms', spec.name), spec.name);
    const controller = new Controller(spec, this.#parts(spec, disks));
    this.#looked.set(spec.name, { controller, told: '' });
    return controller;
  }

  #parts(spec: VmSpec, disks: VmDisks): ControllerParts {
    const { config } = this;
    const { name } = spec;
    const runFolder = path.join(config.runFolder, 'vms', name);
    return {
      host: config.name,
      address: config.address,
      ...(config.tls ? { tlsFolder: tlsFolder(config) } : {}),
      runFolder,
      arbiter: this.arbiter,
      room: this.#room,
      disks,
      steps: QMP_STEPS,
      witness: this.#witness,
      upMs: () => performance.now() - this.#began,
      now: () => performance.now(),
      peer: (host) => this.peer(host),
      hosts: () => this.#hosts,
      chooseSecondary: (wanted, wish) =>
        chooseSecondary(wanted, { primary: config.name, ...wish }, this.#hosts).host,
      tell: (event) => this.#tell({ ...event, vm: name }),
      publish: () => void this.look(),
      saveSide: (side) => {
        if (side !== null) this.#specs.store(this.controller(name)?.spec ?? spec);
        saveSide(runFolder, side);
      },
      loadSide: () => loadSide(runFolder),
      guestEnded: () => void this.#onGuestEnded(name),
    };
  }

  #silences(): Map<string, number> {
    return new Map(
      this.#hosts
        .filter(({ name }) => name !== this.config.name)
        .flatMap(({ name }) => {
          const { lastHeardMs } = this.#beats.peer(name);
          return lastHeardMs === null ? [] : [[name, lastHeardMs] as const];
        }),
    );
  }

  /** A guest that has powered itself off is not started again until somebody asks for it. */
  async #onGuestEnded(name: string): Promise<void> {
    try {
      const found = await this.registry.entry(name);
      if (found?.value.isWanted === true) {
        await this.registry.putEntry({ ...found.value, isWanted: false }, found.version);
      }
    } catch (error) {
      log.warn({ vm: name, err: error }, 'a guest has powered itself off, and the registry cannot be told');
    }
    void this.look();
  }

  #tell(event: NewEvent): void {
    this.metrics.observe(this.events.add(event));
  }

  #onRegistry(trouble: string | null): void {
    if ((trouble === null) === (this.#registryTrouble === null)) return;
    this.#registryTrouble = trouble;
    this.#tell(
      trouble === null
        ? { type: 'registry-back', reason: 'the registry answers again' }
        : { type: 'registry-unreachable', reason: trouble },
    );
  }
}

export const SOFTWARE = 'colo-ft 0.1.0';

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new ParameterError(`${folder} cannot be made: ${messageOf(cause)}; choose another in node.yaml`, {
      cause,
    });
  }
}

/** Certificates under the names that a VM looks for. */
function tlsFolder({ runFolder }: NodeConfig): string {
  return path.join(runFolder, 'tls');
}

/** Of `HOST:PORT`, as hostAndPort writes it. */
function addressOf(text: string): { readonly address: string; readonly port: number } {
  const at = text.lastIndexOf(':');
  return { address: text.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(text.slice(at + 1)) };
}
