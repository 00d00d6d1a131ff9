/**
 * What this host has heard of its peers, and since when not: the table behind the heartbeat channel, without sockets.
 * Times are those of an AwakeClock, so that nobody is blamed for a time in which this process itself stood still.
 */
import type { AwakeClock } from './awake-clock.ts';
import { MAX_BEAT_VMS, type Beat, type VmBeat } from './messages.ts';

/** How long a VM is remembered as dead of which its host does not speak any more. */
const KEPT_DEAD_MS = 60_000;

/**
 * `none`: never heard. `ok`: heard within the patience. `silent`: not. `closed`: its kernel ended the connection, which
 * is what happens when its daemon dies. `refused`: and nobody listens there.
 */
export type PeerStatus = 'none' | 'ok' | 'silent' | 'closed' | 'refused';

export interface PeerVm extends VmBeat {
  /** How long ago it was said, in awake milliseconds. */
  readonly saidMs: number;
}

export interface PeerState {
  readonly host: string;
  readonly status: PeerStatus;
  /** Heard within the patience. */
  readonly isConnected: boolean;
  readonly lastHeardMs: number | null;
  /** Of the peer's daemon; changes when it has been started anew. */
  readonly instance: string | null;
  /** It said that it ends on purpose. */
  readonly isOrderly: boolean;
  /** As last said; of a dead process too. */
  readonly vms: ReadonlyMap<string, PeerVm>;
}

export interface PeerHooks {
  /** A VM's process there has died, or is not spoken of any more. Once for each process. */
  onVmDied?(host: string, vm: VmBeat): void;
  /** Anything else of a VM that matters has changed: condition, phase, epoch. */
  onVmChanged?(host: string, vm: VmBeat): void;
  onSilent?(host: string, silentMs: number): void;
  /** Heard again, or for the first time. */
  onBack?(host: string): void;
  onClosed?(host: string, isOrderly: boolean): void;
}

interface Peer {
  status: PeerStatus;
  heardAt: number | null;
  instance: string | null;
  isOrderly: boolean;
  vms: Map<string, { vm: VmBeat; at: number }>;
  hears: ReadonlySet<string>;
  misses: ReadonlySet<string>;
}

export class Peers {
  readonly #clock: AwakeClock;
  readonly #patienceMs: number;
  readonly #hooks: PeerHooks;
  readonly #peers = new Map<string, Peer>();

  constructor(clock: AwakeClock, patienceMs: number, hooks: PeerHooks) {
    this.#clock = clock;
    this.#patienceMs = patienceMs;
    this.#hooks = hooks;
  }

  hosts(): string[] {
    return [...this.#peers.keys()];
  }

  /** Begins to know a host; nothing if it is known. */
  add(host: string): void {
    this.#peer(host);
  }

  remove(host: string): void {
    this.#peers.delete(host);
  }

  state(host: string): PeerState {
    const peer = this.#peers.get(host);
    const now = this.#clock.now();
    return {
      host,
      status: peer?.status ?? 'none',
      isConnected: peer?.status === 'ok',
      lastHeardMs: peer?.heardAt == null ? null : now - peer.heardAt,
      instance: peer?.instance ?? null,
      isOrderly: peer?.isOrderly ?? false,
      vms: new Map([...(peer?.vms ?? [])].map(([name, { vm, at }]) => [name, { ...vm, saidMs: now - at }])),
    };
  }

  /** Of the peers that are heard: who hears `host`, and who should and does not. */
  whoHears(host: string): { readonly hears: readonly string[]; readonly misses: readonly string[] } {
    const heard = [...this.#peers].filter(([name, peer]) => name !== host && peer.status === 'ok');
    return {
      hears: heard.filter(([, peer]) => peer.hears.has(host)).map(([name]) => name),
      misses: heard.filter(([, peer]) => peer.misses.has(host)).map(([name]) => name),
    };
  }

  hello(host: string, instance: string): void {
    const peer = this.#peer(host);
    if (peer.instance !== instance) {
      // Another daemon, which may not know yet what runs there: what the one before it said is no news.
      peer.instance = instance;
      peer.vms.clear();
      peer.hears = peer.misses = new Set();
    }
    peer.isOrderly = false;
    this.#heard(host, peer);
  }

  beat(host: string, { vms, hears, misses }: Beat): void {
    const peer = this.#peer(host);
    this.#heard(host, peer);
    peer.hears = new Set(hears);
    peer.misses = new Set(misses);
    const named = new Set(vms.map(({ name }) => name));
    for (const vm of vms) this.#take(host, peer, vm);
    for (const [name, { vm, at }] of peer.vms) {
      if (named.has(name)) continue;
      if (vm.condition !== 'dead') this.#take(host, peer, { ...vm, condition: 'dead', state: 'gone' });
      else if (this.#clock.now() - at > KEPT_DEAD_MS || peer.vms.size > MAX_BEAT_VMS) peer.vms.delete(name);
    }
  }

  change(host: string, vm: VmBeat): void {
    const peer = this.#peer(host);
    this.#heard(host, peer);
    this.#take(host, peer, vm);
  }

  bye(host: string): void {
    this.#peer(host).isOrderly = true;
  }

  /** Its kernel has ended the last connection to it. */
  closed(host: string): void {
    const peer = this.#peers.get(host);
    if (!peer || peer.status === 'closed' || peer.status === 'refused') return;
    peer.status = 'closed';
    this.#hooks.onClosed?.(host, peer.isOrderly);
  }

  /** Its kernel refuses a new one. */
  refused(host: string): void {
    const peer = this.#peers.get(host);
    if (!peer || peer.status === 'ok') return;
    const isNews = peer.status !== 'closed' && peer.status !== 'refused';
    peer.status = 'refused';
    if (isNews) this.#hooks.onClosed?.(host, peer.isOrderly);
  }

  /** Finds who has fallen silent. */
  tick(): void {
    const now = this.#clock.now();
    for (const [host, peer] of this.#peers) {
      if (peer.status !== 'ok' || peer.heardAt === null || now - peer.heardAt <= this.#patienceMs) continue;
      peer.status = 'silent';
      this.#hooks.onSilent?.(host, now - peer.heardAt);
    }
  }

  #peer(host: string): Peer {
    let peer = this.#peers.get(host);
    if (!peer) {
      peer = {
        status: 'none',
        heardAt: null,
        instance: null,
        isOrderly: false,
        vms: new Map(),
        hears: new Set(),
        misses: new Set(),
      };
      this.#peers.set(host, peer);
    }
    return peer;
  }

  #heard(host: string, peer: Peer): void {
    peer.heardAt = this.#clock.now();
    if (peer.status === 'ok') return;
    peer.status = 'ok';
    this.#hooks.onBack?.(host);
  }

  #take(host: string, peer: Peer, vm: VmBeat): void {
    const before = peer.vms.get(vm.name)?.vm;
    peer.vms.set(vm.name, { vm, at: this.#clock.now() });
    const isSame = before?.pid === vm.pid;
    if (vm.condition === 'dead') {
      if (before && !(isSame && before.condition === 'dead')) this.#hooks.onVmDied?.(host, vm);
      return;
    }
    if (isSame && before.condition === vm.condition && before.phase === vm.phase && before.epoch === vm.epoch)
      return;
    this.#hooks.onVmChanged?.(host, vm);
  }
}
