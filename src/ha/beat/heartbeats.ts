/**
 * The heartbeat channel of one daemon: a connection to every peer that it cares for, on a network of their own if there is
 * one, over which both sides say every `intervalMs` how the VMs' processes are that they share. docs/failures.md.
 *
 * Whoever cares dials; one connection serves both. A peer that is silent is dialled anew meanwhile, as a fresh connection
 * gets through a healed network long before the old one repeats itself. Decides nothing: what silence means is
 * diagnose.ts's, what is done about it the controllers'.
 */
import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import { messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { TlsFiles } from '../spec/node-config.ts';
import { AwakeClock } from './awake-clock.ts';
import { BeatConnection } from './connection.ts';
import { Dialler, type PeerAddress } from './dialler.ts';
import { BeatListener, HANDSHAKE_MS } from './listener.ts';
import {
  BEAT_VERSION,
  MAX_BEAT_HOSTS,
  MAX_BEAT_VMS,
  OLDEST_BEAT_VERSION,
  type Hello,
  type VmBeat,
} from './messages.ts';
import { Peers, type PeerHooks, type PeerState } from './peers.ts';

export interface HeartbeatOptions {
  readonly host: string;
  readonly address: string;
  readonly port: number;
  readonly intervalMs: number;
  readonly patienceMs: number;
  readonly tls?: TlsFiles;
  /** The VMs of this host that concern `peer`, for a beat. Called once for each beat; must be cheap. */
  readonly report: (peer: string) => readonly VmBeat[];
  readonly hooks?: HeartbeatHooks;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export interface HeartbeatHooks extends PeerHooks {
  /** This process did not run for so long; nobody is blamed for the time. */
  onStoodStill?(ms: number): void;
}

/** Patiences after which a silent connection is given up. */
const HOPELESS = 10;

const logger = loggerFor('heartbeat');

export class Heartbeats {
  readonly #options: HeartbeatOptions;
  readonly #own: Hello;
  readonly #now: () => number;
  readonly #clock: AwakeClock;
  readonly #peers: Peers;
  readonly #wanted = new Map<string, Dialler>();
  /** When each connection was last heard, in awake milliseconds. */
  readonly #connections = new Map<BeatConnection, number>();
  #listener: BeatListener | null = null;
  #timer: NodeJS.Timeout | null = null;
  #nextBeatAt = 0;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#clock = new AwakeClock(this.#now, Math.max(options.patienceMs / 2, options.intervalMs));
    this.#peers = new Peers(this.#clock, options.patienceMs, options.hooks ?? {});
    this.#own = {
      kind: 'hello',
      version: BEAT_VERSION,
      oldest: OLDEST_BEAT_VERSION,
      host: options.host,
      instance: randomUUID(),
    };
  }

  /** Listens and begins to beat. Throws ColoError when the address cannot be had, ParameterError for TLS files. */
  async start(): Promise<void> {
    const { address, port, tls, intervalMs } = this.#options;
    this.#listener = await BeatListener.listen(
      { address, port, tls: tls ?? null },
      {
        onSocket: (socket) => this.#connect(socket, null),
        onRefused: (error) => logger.info(`a connection was turned away: ${messageOf(error)}`),
      },
    );
    this.#timer = setInterval(() => this.#tick(), Math.max(1, intervalMs / 2));
  }

  /** The port that it listens on. */
  get port(): number {
    return this.#listener?.port ?? 0;
  }

  /** Keeps a connection to `host` from now on; a new address replaces the one before. */
  watch(host: string, at: PeerAddress): void {
    const before = this.#wanted.get(host);
    if (before?.isAt(at) || host === this.#options.host) return;
    before?.stop();
    const { tls, intervalMs } = this.#options;
    const dialler = new Dialler(
      host,
      at,
      { tls: tls ?? null, firstPauseMs: intervalMs },
      {
        onSocket: (socket) => this.#connect(socket, host),
        onRefused: () => this.#peers.refused(host),
        onFailed: (error) => logger.debug(`${host}: ${messageOf(error)}`),
      },
    );
    this.#wanted.set(host, dialler);
    this.#peers.add(host);
    dialler.dial(this.#now());
  }

  /** The connection stays if the peer keeps it up. */
  unwatch(host: string): void {
    this.#wanted.get(host)?.stop();
    this.#wanted.delete(host);
    if (!this.#connectionsOf(host).length) this.#peers.remove(host);
  }

  /** Status `none` for a host that was never heard. */
  peer(host: string): PeerState {
    return this.#peers.state(host);
  }

  hosts(): string[] {
    return this.#peers.hosts();
  }

  /** Of the peers that are heard: who hears `host`, and who should and does not. */
  whoHears(host: string): { readonly hears: readonly string[]; readonly misses: readonly string[] } {
    return this.#peers.whoHears(host);
  }

  /** Says at once that a VM has changed; for everything that cannot wait for the next beat. */
  tell(vm: VmBeat): void {
    for (const connection of this.#connections.keys()) {
      if (connection.host !== null) connection.send({ kind: 'change', vm });
    }
  }

  /** Says goodbye: peers know then that this daemon has not died. */
  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    this.#listener?.close();
    for (const dialler of this.#wanted.values()) dialler.stop();
    this.#wanted.clear();
    for (const connection of this.#connections.keys()) {
      connection.send({ kind: 'bye' });
      connection.close();
    }
    this.#connections.clear();
  }

  #tick(): void {
    const stoodStillMs = this.#clock.look();
    if (stoodStillMs > 0) this.#options.hooks?.onStoodStill?.(stoodStillMs);
    this.#peers.tick();
    const now = this.#now();
    if (now >= this.#nextBeatAt) {
      this.#nextBeatAt = now + this.#options.intervalMs * 0.75;
      for (const connection of this.#connections.keys()) this.#beat(connection);
    }
    this.#endHopeless();
    for (const [host, dialler] of this.#wanted) {
      if (!this.#peers.state(host).isConnected) dialler.dial(now);
    }
  }

  #beat(connection: BeatConnection): void {
    const { host } = connection;
    if (host === null) return;
    const hears: string[] = [];
    const misses: string[] = [];
    for (const name of this.#peers.hosts()) {
      const { status } = this.#peers.state(name);
      if (status === 'ok') hears.push(name);
      else if (status !== 'none') misses.push(name);
    }
    const vms = this.#options.report(host).slice(0, MAX_BEAT_VMS);
    connection.send({
      kind: 'beat',
      vms,
      hears: hears.slice(0, MAX_BEAT_HOSTS),
      misses: misses.slice(0, MAX_BEAT_HOSTS),
    });
  }

  #connect(socket: Socket, expected: string | null): void {
    if (!this.#timer) {
      socket.destroy();
      return;
    }
    const connection = new BeatConnection(socket, this.#own, expected, {
      onHello: (from, hello) => this.#greeted(from, hello),
      onBeat: (from, beat) => this.#heard(from, (host) => this.#peers.beat(host, beat)),
      onChange: (from, vm) => this.#heard(from, (host) => this.#peers.change(host, vm)),
      onBye: (from) => this.#heard(from, (host) => this.#peers.bye(host)),
      onEnd: (from, isByPeer, error) => this.#ended(from, isByPeer, error),
    });
    this.#connections.set(connection, this.#clock.now());
  }

  #greeted(connection: BeatConnection, hello: Hello): void {
    // Another daemon of that host, or the same by a way that works: what is silent beside it is done for.
    const isAnew = this.#peers.state(hello.host).instance !== hello.instance;
    for (const other of this.#connectionsOf(hello.host)) {
      if (other !== connection && (isAnew || this.#isSilent(other))) this.#drop(other);
    }
    this.#wanted.get(hello.host)?.reset();
    this.#connections.set(connection, this.#clock.now());
    this.#peers.hello(hello.host, hello.instance);
    this.#beat(connection);
  }

  #heard(connection: BeatConnection, handle: (host: string) => void): void {
    if (connection.host === null || !this.#connections.has(connection)) return;
    this.#connections.set(connection, this.#clock.now());
    handle(connection.host);
  }

  #ended(connection: BeatConnection, isByPeer: boolean, error: Error | null): void {
    if (!this.#connections.delete(connection)) return;
    const { host } = connection;
    if (error) logger.info(`${host ?? 'a stranger'}: ${messageOf(error)}`);
    if (host === null || this.#connectionsOf(host).some((other) => !this.#isSilent(other))) return;
    if (isByPeer) this.#peers.closed(host);
    if (!this.#wanted.has(host)) this.#peers.remove(host);
  }

  #endHopeless(): void {
    const now = this.#clock.now();
    const { patienceMs } = this.#options;
    for (const [connection, heardAt] of this.#connections) {
      const limit = connection.host === null ? HANDSHAKE_MS : HOPELESS * patienceMs;
      if (now - heardAt > limit) connection.destroy();
    }
  }

  /** Without a word to anybody. */
  #drop(connection: BeatConnection): void {
    this.#connections.delete(connection);
    connection.destroy();
  }

  #isSilent(connection: BeatConnection): boolean {
    return this.#clock.now() - (this.#connections.get(connection) ?? 0) > this.#options.patienceMs;
  }

  #connectionsOf(host: string): BeatConnection[] {
    return [...this.#connections.keys()].filter((connection) => connection.host === host);
  }
}
