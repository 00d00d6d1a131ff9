/**
 * A simulated host: a daemon's traffic without its guests. Real are the registry's client, the placement, the arbiter's
 * client and the side's table; imitated: guests, disks, and the words between peers. Each host has its own connections.
 */
import { EtcdArbiter } from '../../src/ha/arbiter/etcd-arbiter.ts';
import { chooseSecondary } from '../../src/ha/placement.ts';
import { EtcdRegistry } from '../../src/ha/registry/etcd-registry.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import type { HostView, VmState, VmView } from '../../src/ha/views.ts';
import { SimCopy, type CopyHooks } from './copy.ts';
import { between, hostIndex, hostName, sleep, type PeerMessage, type SimOptions } from './messages.ts';

/** Living hosts that are looked at for a place. */
export const CANDIDATES = 16;
const JOIN_PATIENCE_MS = 2_000;
const TRY_AGAIN_MS = [500, 1_500] as const;
/** Resyncs before the rack is lost: how a cluster comes to be is not what is measured. */
const FIRST_RESYNC_MS = [100, 500] as const;
/** Free memory is told so long after it has changed. */
const TELL_MS = 500;
/** A primary's counters are handed to the registry so often; it decides when they are worth a write. */
const COUNTERS_MS = 5_000;

export interface Surroundings {
  readonly options: SimOptions;
  readonly endpoints: readonly string[];
  send(to: number, from: number, vm: string, message: PeerMessage): void;
  told(vm: string, host: number, what: 'speaks' | 'protected' | 'unprotected', resyncMs: number): void;
  hint(): void;
  failed(error: unknown): void;
  isRackLost(): boolean;
}

export class SimHost implements CopyHooks {
  readonly #at: number;
  readonly #name: string;
  readonly #around: Surroundings;
  readonly #registry: EtcdRegistry;
  readonly #arbiter: EtcdArbiter;
  readonly #copies = new Map<string, SimCopy>();
  readonly #specs = new Map<string, VmSpec>();
  readonly #joins = new Map<number, (isTaken: boolean) => void>();
  #joinIds = 0;
  #isLooking = false;
  #isLookWanted = false;
  #counters: NodeJS.Timeout | null = null;
  #tellTimer: NodeJS.Timeout | null = null;
  #isDead = false;

  constructor(at: number, around: Surroundings) {
    this.#at = at;
    this.#name = hostName(at);
    this.#around = around;
    const { deadlineMs, attemptMs } = around.options;
    const options = { endpoints: around.endpoints, deadlineMs, attemptMs };
    this.#registry = new EtcdRegistry(options);
    this.#arbiter = new EtcdArbiter(options);
  }

  async start(): Promise<void> {
    this.#counters = setInterval(() => {
      for (const copy of this.#copies.values()) {
        if (copy.side.phase === 'primary') void this.#tell(copy, 'protected');
      }
    }, COUNTERS_MS);
    await this.#registry.publish(this.#view()).catch((error: unknown) => this.#around.failed(error));
    this.#registry.watch(
      () => {
        this.#around.hint();
        void this.#look();
      },
      { host: this.#name },
    );
  }

  /** Without a word. */
  async die(): Promise<void> {
    this.#isDead = true;
    if (this.#counters) clearInterval(this.#counters);
    if (this.#tellTimer) clearTimeout(this.#tellTimer);
    for (const copy of this.#copies.values()) copy.isDead = true;
    await Promise.all([this.#registry.close(), this.#arbiter.close()]);
  }

  /** Others have died; who had a peer there suspects it after a while. */
  lose(hosts: ReadonlySet<number>): void {
    for (const copy of this.#copies.values()) {
      const { peer, phase } = copy.side;
      if (copy.joining !== null && hosts.has(hostIndex(copy.joining))) copy.joining = null;
      if (peer === null || !hosts.has(hostIndex(peer)) || phase === 'idle') continue;
      if (phase === 'primary') this.#around.told(copy.vm, this.#at, 'unprotected', 0);
      setTimeout(() => copy.send({ type: 'peer-lost' }), between(this.#around.options.detectMs));
    }
  }

  receive(from: number, vm: string, message: PeerMessage): void {
    if (this.#isDead) return;
    const copy = this.#copies.get(vm);
    switch (message.kind) {
      case 'join': {
        const isTaken = !copy && this.#free() >= message.memoryMiB;
        if (isTaken) {
          const mine = this.#make(vm, message.memoryMiB);
          mine.send({ type: 'invited', peer: hostName(from) });
        }
        this.#around.send(from, this.#at, vm, { kind: 'joined', id: message.id, isTaken });
        return;
      }
      case 'joined':
        this.#joins.get(message.id)?.(message.isTaken);
        return;
      case 'checkpoint':
        copy?.send({ type: 'checkpoint-loaded', pairing: message.pairing });
        return;
      case 'confirmed':
        copy?.send({ type: 'checkpoint-confirmed' });
    }
  }

  onPhase(copy: SimCopy, before: string): void {
    const { phase } = copy.side;
    if (phase === 'primary') {
      this.#around.told(copy.vm, this.#at, 'protected', copy.resyncMs);
      void this.#tell(copy, 'protected');
    }
    if (phase === 'asking' && before !== 'reading') void this.#tell(copy, 'dissolving');
    if (phase === 'alone' && before === 'arming') void this.#protect(copy);
    if (phase === 'idle' && before !== 'reading') this.#drop(copy);
  }

  onSpeaks(copy: SimCopy): void {
    this.#around.told(copy.vm, this.#at, 'speaks', 0);
    void this.#protect(copy);
  }

  sendCheckpoint(copy: SimCopy, { pairing }: { readonly pairing: { epoch: number; nonce: string } }): void {
    const { peer } = copy.side;
    if (peer !== null) this.#send(peer, copy.vm, { kind: 'checkpoint', pairing });
  }

  confirm(copy: SimCopy): void {
    const { peer } = copy.side;
    if (peer !== null) this.#send(peer, copy.vm, { kind: 'confirmed' });
  }

  /** What the daemon's loop does: what concerns this host, and is not known yet. */
  async #look(): Promise<void> {
    this.#isLookWanted = true;
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      while (this.#isLookWanted && !this.#isDead) {
        this.#isLookWanted = false;
        for (const { value } of await this.#registry.entriesOf(this.#name)) {
          const { name } = value.spec;
          const isNew = !this.#specs.has(name);
          this.#specs.set(name, value.spec);
          if (isNew && value.home === this.#name && !this.#copies.has(name)) void this.#begin(value.spec);
        }
      }
    } catch (error) {
      this.#around.failed(error);
    } finally {
      this.#isLooking = false;
    }
  }

  async #begin(spec: VmSpec): Promise<void> {
    const first = { nonce: crypto.randomUUID(), holder: null, members: [this.#name], data: {} };
    try {
      const made = await this.#arbiter.create(spec.name, first);
      if (made.outcome === 'won') this.#make(spec.name, spec.memoryMiB).send({ type: 'start' });
    } catch (error) {
      this.#around.failed(error);
      this.#specs.delete(spec.name);
    }
  }

  /** Finds a second host for a VM that is alone here, until there is one or it is not alone any more. */
  async #protect(copy: SimCopy): Promise<void> {
    const refused: string[] = [];
    await this.#tell(copy, 'unprotected');
    const spec = this.#specs.get(copy.vm) ?? (await this.#specOf(copy.vm));
    while (spec && !this.#isDead && copy.side.phase === 'alone') {
      const peer = await this.#findPeer(copy, spec, refused).catch((error: unknown) => {
        this.#around.failed(error);
        return null;
      });
      if (peer === null) {
        refused.length = 0;
        await sleep(between(TRY_AGAIN_MS));
        continue;
      }
      const isLater = this.#around.isRackLost();
      copy.resyncMs = between(isLater ? this.#around.options.resyncMs : FIRST_RESYNC_MS);
      void this.#tell(copy, 'syncing', peer);
      copy.joining = peer;
      await sleep(copy.resyncMs);
      const isThere = copy.joining as string | null;
      copy.joining = null;
      if (isThere === null) continue;
      void this.#tell(copy, 'protecting', peer);
      copy.send({ type: 'peer-ready', peer });
      return;
    }
  }

  async #findPeer(copy: SimCopy, spec: VmSpec, refused: string[]): Promise<string | null> {
    const hosts = await this.#registry.someHosts(CANDIDATES, [this.#name]);
    const { ranked } = chooseSecondary(spec, { primary: this.#name, refused }, hosts);
    for (const name of ranked.slice(0, 3)) {
      if (await this.#ask(name, copy)) return name;
      refused.push(name);
    }
    return null;
  }

  async #ask(name: string, copy: SimCopy): Promise<boolean> {
    const id = ++this.#joinIds;
    const isTaken = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), JOIN_PATIENCE_MS);
      this.#joins.set(id, (is) => {
        clearTimeout(timer);
        resolve(is);
      });
      this.#send(name, copy.vm, { kind: 'join', memoryMiB: copy.memoryMiB, id });
    });
    this.#joins.delete(id);
    return isTaken;
  }

  async #specOf(vm: string): Promise<VmSpec | null> {
    const entry = await this.#registry.entry(vm).catch(() => null);
    if (entry) this.#specs.set(vm, entry.value.spec);
    return entry?.value.spec ?? null;
  }

  async #tell(copy: SimCopy, state: VmState, joining: string | null = null): Promise<void> {
    if (state !== copy.told) copy.sinceMs = Date.now();
    copy.told = state;
    const peer = joining ?? copy.side.peer;
    const view: VmView = {
      version: 1,
      name: copy.vm,
      state,
      reason: 'simulated',
      sinceMs: copy.sinceMs,
      epoch: copy.side.known?.epoch ?? 0,
      primary: this.#name,
      secondary: state === 'protected' ? peer : null,
      copies: [
        { host: this.#name, role: state === 'protected' ? 'primary' : 'alone', pid: 1 },
        ...(peer === null
          ? []
          : [
              {
                host: peer,
                role: state === 'protected' ? ('secondary' as const) : ('joining' as const),
                pid: 2,
              },
            ]),
      ],
      isWanted: true,
      isPaused: false,
      memoryMiB: copy.memoryMiB,
      engine: 'v86',
      checkpoints: {
        count: Math.floor(performance.now()),
        perSecond: 1,
        byCause: { mismatch: 1, timer: 2 },
        lastPauseMs: 9.5,
        lastAtMs: Date.now(),
      },
    };
    if (this.#isDead) return;
    await this.#registry.publishVm(view).catch((error: unknown) => this.#around.failed(error));
  }

  #make(vm: string, memoryMiB: number): SimCopy {
    const copy = new SimCopy(vm, this.#name, memoryMiB, this.#arbiter, this);
    this.#copies.set(vm, copy);
    this.#tellMemory();
    return copy;
  }

  #drop(copy: SimCopy): void {
    if (this.#copies.get(copy.vm) === copy) this.#copies.delete(copy.vm);
    this.#tellMemory();
  }

  #tellMemory(): void {
    this.#tellTimer ??= setTimeout(() => {
      this.#tellTimer = null;
      if (this.#isDead) return;
      this.#registry.publish(this.#view()).catch((error: unknown) => this.#around.failed(error));
    }, TELL_MS);
  }

  #free(): number {
    let used = 0;
    for (const { memoryMiB } of this.#copies.values()) used += memoryMiB;
    return this.#around.options.hostMemoryMiB - used;
  }

  #view(): HostView {
    const sides = [...this.#copies.values()].map(({ side }) => side.phase);
    const secondary = sides.filter((phase) => phase === 'secondary' || phase === 'joining').length;
    return {
      version: 1,
      name: this.#name,
      api: `10.0.${this.#at >> 8}.${this.#at & 255}:7700`,
      heartbeat: `10.1.${this.#at >> 8}.${this.#at & 255}:7701`,
      software: 'simulated',
      isAlive: true,
      isInMaintenance: false,
      memoryMiB: this.#around.options.hostMemoryMiB,
      freeMemoryMiB: this.#free(),
      vms: { primary: sides.length - secondary, secondary },
      labels: { rack: `r${Math.floor(this.#at / this.#around.options.rackSize)}` },
    };
  }

  #send(to: string, vm: string, message: PeerMessage): void {
    this.#around.send(hostIndex(to), this.#at, vm, message);
  }
}
