/**
 * Hosts in one process: real controllers, sides and a real (memory) arbiter; guests and QMP are imitated. Whoever may be
 * heard is noted, so that a test can ask whether two ever were at once.
 */
import { Deferred } from '../../src/base/async.ts';
import { ClosedError, ColoError } from '../../src/base/errors.ts';
import type { PeerService } from '../../src/api/service.ts';
import { Witness, type PeerState } from '../../src/ha/beat/index.ts';
import { MemoryArbiter, MemoryStore } from '../../src/ha/arbiter/index.ts';
import type { HaEvent, HostView, RunningVm, VmDisk, VmEntry, VmExit } from '../../src/ha/index.ts';
import type { Side } from '../../src/ha/side.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import { Controller } from '../../src/node/controller.ts';
import type { ControllerParts, VmDisks } from '../../src/node/parts.ts';
import type { QmpEvent } from '../../src/qmp/types.ts';

export const SPEC: VmSpec = {
  version: 1,
  name: 'web',
  engine: 'v86',
  cpus: 1,
  memoryMiB: 128,
  disks: [{ id: 'disk0', sizeBytes: 1 << 20, interface: 'ide' }],
  nics: [
    { id: 'nic0', mac: '52:54:00:00:00:01', model: 'ne2k_pci', edge: { kind: 'switch', address: 'unix:/x' } },
  ],
  hosts: [],
  checkpoint: { maxDelayMs: 1000 },
  heartbeat: { intervalMs: 100, patienceMs: 400, linkPatienceMs: 50 },
  resync: { bytesPerSecond: 0 },
  options: [],
};

let nextPid = 1000;

/** A `colo vm` as far as a controller sees it. */
export class FalseVm implements RunningVm {
  readonly name = SPEC.name;
  readonly pid = nextPid++;
  readonly startedAs = 'primary';
  consolePath = '';
  vncPath = '';
  readonly logPath = '';
  readonly host: string;
  mode: 'none' | 'primary' | 'secondary' = 'none';
  isRunning = false;
  /** It has never run. */
  isNew = true;
  isAlive = true;
  /** The other half of the pair. */
  twin: FalseVm | null = null;
  checkpoints = 0;
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #exit = new Deferred<VmExit>();

  constructor(host: string) {
    this.host = host;
  }

  /** Could be heard by the world if it said something that nobody has agreed to. */
  get isHeard(): boolean {
    return this.isAlive && this.isRunning && this.mode === 'none';
  }

  get exited(): Promise<VmExit> {
    return this.#exit.promise;
  }

  get qmp(): RunningVm['qmp'] {
    const fake = {
      execute: (command: string) => this.#execute(command),
      onEvent: (listener: (event: QmpEvent) => void) => {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
      },
      waitFor: (name: string) =>
        new Promise<QmpEvent>((resolve) => {
          const listen = (event: QmpEvent): void => {
            if (event.event !== name) return;
            this.#listeners.delete(listen);
            resolve(event);
          };
          this.#listeners.add(listen);
        }),
    };
    return fake as unknown as RunningVm['qmp'];
  }

  say(event: string, data: Record<string, unknown> = {}): void {
    for (const listener of [...this.#listeners]) {
      listener({ event, data, timestamp: { seconds: 0, microseconds: 0 } });
    }
  }

  /** The pair is broken: both sides say so, as when a connection is closed. */
  part(): void {
    const { twin } = this;
    this.twin = null;
    if (!twin) return;
    twin.twin = null;
    if (twin.isAlive) twin.say('COLO_EXIT', { reason: 'error', mode: twin.mode });
    if (this.isAlive) this.say('COLO_EXIT', { reason: 'error', mode: this.mode });
  }

  kill(): Promise<void> {
    if (this.isAlive) {
      this.isAlive = false;
      this.#exit.resolve({ code: null, signal: 'SIGKILL', lastWords: '' });
      this.part();
    }
    return Promise.resolve();
  }

  #execute(command: string): Promise<unknown> {
    if (!this.isAlive) return Promise.reject(new ClosedError('gone'));
    switch (command) {
      case 'cont':
        this.isRunning = true;
        this.isNew = false;
        this.say('RESUME');
        return Promise.resolve({});
      case 'stop':
        this.isRunning = false;
        this.say('STOP');
        return Promise.resolve({});
      case 'query-status':
        return Promise.resolve({ status: this.isRunning ? 'running' : this.isNew ? 'prelaunch' : 'paused' });
      case 'quit':
        return this.kill().then(() => ({}));
      case 'query-block-jobs':
        return Promise.resolve([]);
      case 'query-colo-status':
        return Promise.resolve({ mode: this.mode });
      case 'x-colo-checkpoint':
        this.checkpoints++;
        return Promise.resolve({});
      case 'query-colo-checkpoints':
        return Promise.resolve({ count: this.checkpoints, 'by-cause': {}, records: [] });
      default:
        return Promise.reject(new ColoError(`no ${command} here`));
    }
  }
}

/** What survives a daemon, and what survives a host. */
export class FalseHost {
  readonly name: string;
  readonly world: World;
  controller!: Controller;
  vm: FalseVm | null = null;
  side: Side | null = null;
  diskState: VmDisks['kind'] = 'none';
  /** It gave way, and what is stale differs by what the other's bitmap knows. */
  isInStep = false;
  /** Its daemon answers others, and is heard by them. */
  isReachable = true;
  isInMaintenance = false;
  /** What it says of its process in its heartbeats has reached nobody yet. */
  isBehind = false;
  upMs = 60_000;
  hasFullDisk = false;
  /** Its disks cannot be made. */
  joinFails = false;
  /** Set: a take-over waits for it. */
  heldTakeOver: Deferred<void> | null = null;
  /** Set: its next process does not answer before. */
  heldStart: Deferred<void> | null = null;
  /** For each time that it joined: whether what had changed was enough. */
  readonly joinedWith: boolean[] = [];
  readonly events: Omit<HaEvent, 'version' | 'sequence' | 'time' | 'host'>[] = [];

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
  }

  startDaemon(): Promise<void> {
    this.controller = new Controller(SPEC, this.#parts());
    return this.controller.adopt();
  }

  /** Power: process, daemon, and what is only in memory. */
  async losePower(): Promise<void> {
    this.isReachable = false;
    this.controller.close();
    const { vm } = this;
    this.vm = null;
    this.side = null;
    await vm?.kill();
  }

  async comeBack(): Promise<void> {
    this.isReachable = true;
    this.upMs = 0;
    await this.startDaemon();
  }

  #parts(): ControllerParts {
    const { world } = this;
    const disks = (): VmDisk[] => [{ id: 'disk0', sizeBytes: 1 << 20, image: '', active: '', hidden: '' }];
    const began = performance.now();
    return {
      host: this.name,
      address: '127.0.0.1',
      runFolder: '/nowhere',
      upMs: () => this.upMs + performance.now() - began,
      arbiter: new MemoryArbiter(world.store),
      room: {
        startPrimary: () => this.#start(),
        startSecondary: () => this.#start(),
        adopt: () => Promise.resolve(this.vm?.isAlive === true ? this.vm : null),
        names: () => Promise.resolve([]),
        reservePorts: (count) =>
          Promise.resolve({
            ports: Array.from({ length: count }, (_, at) => 7000 + at),
            release: () => undefined,
          }),
      },
      disks: this.#disks(disks),
      steps: {
        exportDisks: () => Promise.resolve(),
        openPacketSockets: () => Promise.resolve(),
        resync: async (_vm, _spec, links, options) => {
          options.onProgress(1, 2);
          await world.resync(links.secondaryHost, options.signal);
          options.onProgress(2, 2);
        },
        enterColo: async () => {
          const { vm } = this;
          const peer = world.joiningVm(this.name);
          if (!peer || !vm) throw new ColoError('nobody listens');
          vm.twin = peer;
          peer.twin = vm;
          vm.mode = 'primary';
          peer.mode = 'secondary';
          peer.isRunning = true;
          peer.isNew = false;
          peer.say('RESUME');
          await Promise.resolve();
        },
        cutExports: () => Promise.resolve(),
        primaryAlone: () =>
          this.vm?.mode === 'secondary'
            ? Promise.reject(new ColoError('a secondary has nothing to go on with'))
            : this.#alone(),
        secondaryAlone: async () => {
          await this.heldTakeOver?.promise;
          await this.#alone();
        },
      },
      peer: (host) => world.peer(this.name, host),
      witness: this.#witness(),
      now: () => performance.now(),
      hosts: () => world.hostViews(),
      chooseSecondary: (spec, { refused }) => {
        const busy = new Set([this.name, ...refused]);
        const found = world
          .hostViews()
          .find(
            ({ name, isAlive, isInMaintenance }) =>
              isAlive &&
              !isInMaintenance &&
              !busy.has(name) &&
              (spec.hosts.length === 0 || spec.hosts.includes(name)),
          );
        return found?.name ?? null;
      },
      tell: (event) => {
        this.events.push(event);
        world.onTold();
      },
      publish: () => world.onTold(),
      saveSide: (side) => {
        this.side = side;
      },
      loadSide: () => this.side,
      guestEnded: () => undefined,
    };
  }

  #witness(): Witness {
    const { world } = this;
    return new Witness({
      heartbeats: {
        peer: (host) => this.#heardOf(host),
        hosts: () => [...world.hosts.keys()],
        whoHears: () => ({ hears: [], misses: [] }),
      },
      apiOf: (host) => ({ address: host, port: 1 }),
      reachesArbiter: () => (world.store.isReachable ? 'yes' : 'no'),
      patienceMs: 100,
      probe: (host) => Promise.resolve(world.host(host).isReachable ? 'yes' : 'timeout'),
    });
  }

  #heardOf(host: string): PeerState {
    const peer = this.world.host(host);
    const isHeard = peer.isReachable && !this.world.isCut(this.name, host);
    const vm = {
      name: SPEC.name,
      pid: peer.vm?.pid ?? null,
      condition: peer.vm?.isAlive === true ? 'alive' : 'dead',
      state: 'running',
      answerMs: 0,
      phase: '',
      epoch: 0,
      saidMs: 0,
    } as const;
    return {
      host,
      status: isHeard ? 'ok' : 'silent',
      isConnected: isHeard,
      lastHeardMs: 10,
      instance: null,
      isOrderly: false,
      vms: new Map(isHeard && !peer.isBehind ? [[SPEC.name, vm]] : []),
    };
  }

  /** As the room: of each VM there is at most one process. */
  async #start(): Promise<RunningVm> {
    if (this.vm?.isAlive === true) throw new ColoError(`it runs on this host already (pid ${this.vm.pid})`);
    const vm = (this.vm = new FalseVm(this.name));
    await this.heldStart?.promise;
    return vm;
  }

  #alone(): Promise<void> {
    const { vm } = this;
    if (vm?.isAlive !== true) return Promise.reject(new ClosedError('gone'));
    vm.part();
    vm.mode = 'none';
    // As the procedure: `cont` for a guest that stood for the pair, not for one that has never run.
    if (!vm.isNew) vm.isRunning = true;
    this.world.onTold();
    return Promise.resolve();
  }

  #disks(made: () => VmDisk[]): VmDisks {
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- an object with a getter of its own
    const host = this;
    return {
      get kind() {
        return host.diskState;
      },
      forStart: () => {
        if (this.diskState === 'syncing' || this.diskState === 'stale') throw new ColoError('not usable');
        this.diskState = 'whole';
        return Promise.resolve(made());
      },
      forJoin: (_sizes, pairing) => {
        if (this.joinFails) throw new ColoError('no room for its disks');
        const isBitmapEnough = (this.diskState === 'replica' || this.isInStep) && pairing !== null;
        this.isInStep = false;
        this.diskState = 'syncing';
        this.joinedWith.push(isBitmapEnough);
        return Promise.resolve({ disks: made(), isBitmapEnough });
      },
      current: made,
      settle: () => Promise.resolve(),
      note: ({ type }) => {
        if (this.hasFullDisk) return Promise.reject(new ColoError('No space left on device'));
        this.diskState = DISKS_AFTER[type];
        this.isInStep = type === 'gave-way';
        return Promise.resolve();
      },
      remove: () => Promise.resolve(),
    };
  }
}

const DISKS_AFTER = {
  holds: 'whole',
  loaded: 'replica',
  'takes-over': 'merging',
  merged: 'whole',
  'gave-way': 'stale',
  left: 'stale',
} as const;

export class World {
  readonly store = new MemoryStore();
  readonly hosts = new Map<string, FalseHost>();
  readonly #cuts = new Set<string>();
  #timer: NodeJS.Timeout | null = null;
  isWanted = true;
  isPaused = false;
  home = 'a';
  /** Set: resyncs take until it is resolved. */
  held: Deferred<void> | null = null;
  /** When more than one was heard. */
  readonly splits: string[] = [];

  static async start(...names: string[]): Promise<World> {
    const world = new World();
    for (const name of names) world.hosts.set(name, new FalseHost(world, name));
    for (const host of world.hosts.values()) await host.startDaemon();
    world.#timer = setInterval(() => world.tick(), 10);
    return world;
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    for (const { controller } of this.hosts.values()) controller.close();
  }

  host(name: string): FalseHost {
    const host = this.hosts.get(name);
    if (!host) throw new ColoError(`no host ${name}`);
    return host;
  }

  entry(): VmEntry {
    const { isWanted, isPaused, home } = this;
    return { version: 1, spec: SPEC, isWanted, isPaused, home };
  }

  tick(): void {
    for (const host of this.hosts.values()) if (host.isReachable) void host.controller.tick(this.entry());
  }

  cut(one: string, other: string): void {
    this.#cuts.add([one, other].sort().join());
  }

  heal(): void {
    this.#cuts.clear();
  }

  isCut(one: string, other: string): boolean {
    return this.#cuts.has([one, other].sort().join());
  }

  get heard(): string[] {
    return [...this.hosts.values()].filter(({ vm }) => vm?.isHeard === true).map(({ name }) => name);
  }

  onTold(): void {
    const { heard } = this;
    if (heard.length > 1) this.splits.push(heard.join());
  }

  async resync(_to: string, signal: AbortSignal): Promise<void> {
    await this.held?.promise;
    signal.throwIfAborted();
  }

  joiningVm(from: string): FalseVm | null {
    for (const { controller, vm, isReachable } of this.hosts.values()) {
      if (isReachable && controller.side.phase === 'joining' && controller.side.peer === from) return vm;
    }
    return null;
  }

  peer(from: string, to: string): PeerService {
    const host = this.host(to);
    const reach = <T>(call: (controller: Controller) => Promise<T>): Promise<T> =>
      host.isReachable && !this.isCut(from, to)
        ? call(host.controller)
        : Promise.reject(new ColoError(`${to} does not answer`));
    return {
      copy: () => reach((controller) => Promise.resolve(controller.report())),
      join: (request) => reach((controller) => controller.join(request)),
      awaitCheckpoint: (_name, pairing) => reach((controller) => controller.awaitCheckpoint(pairing)),
      takeOver: () => reach((controller) => controller.takeOver()),
      leave: (_name, reason) => reach((controller) => controller.leave(reason)),
      purge: () => reach((controller) => controller.purge()),
      facts: () => Promise.reject(new ColoError('nobody checks here')),
    };
  }

  hostViews(): HostView[] {
    return [...this.hosts.values()].map(({ name, isReachable, isInMaintenance }) => ({
      version: 1,
      name,
      api: '',
      heartbeat: '',
      software: '',
      isAlive: isReachable,
      isInMaintenance,
      memoryMiB: 4096,
      freeMemoryMiB: 4096,
      vms: { primary: 0, secondary: 0 },
    }));
  }

  /** Until `isSo`; the test's own time-out ends it. Tells what stood there when it is aborted. */
  async until(what: string, isSo: () => boolean, ms = 8_000): Promise<void> {
    const deadline = performance.now() + ms;
    while (!isSo()) {
      if (performance.now() > deadline) {
        const stand = [...this.hosts.values()].map(
          ({ name, controller, vm }) =>
            `${name}: ${controller.life.state} (${controller.life.reason}), side ${controller.side.phase}, ` +
            `vm ${vm?.isAlive === true ? vm.mode : 'gone'}`,
        );
        throw new Error(`waited in vain for: ${what}\n${stand.join('\n')}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  untilProtected(primary?: string): Promise<void> {
    return this.until(`protected${primary === undefined ? '' : ` on ${primary}`}`, () =>
      [...this.hosts.values()].some(
        ({ name, controller, isReachable }) =>
          isReachable &&
          (primary === undefined || name === primary) &&
          controller.side.phase === 'primary' &&
          controller.life.state === 'protected',
      ),
    );
  }
}
