/**
 * One libslirp instance on Node's event loop: a user-mode TCP/IP stack that turns a guest's Ethernet frames into
 * sockets of this process, so that nobody needs root for a guest's network.
 *
 * Runs on the main thread: a frame is one foreign call away, in and out, and sockets are watched through one epoll
 * descriptor (poll-set.ts says why not a worker). One "turn" polls, lets slirp read and write its sockets, and asks
 * what to wait for next; it runs when a socket is ready, after a burst of frames from the guest, and when slirp's own
 * clock asks for it (delayed ACKs 2 ms, retransmission 500 ms, and once a second when idle).
 *
 * Assumes that callbacks come on this thread, within our own calls. Facts: libslirp.h and slirp.c of 4.7.
 */
import { getSystemErrorMap } from 'node:util';
import koffi from 'koffi';
import {
  addPollCallback,
  callbackTypes,
  getREventsCallback,
  SLIRP_POLL_ERR,
  SLIRP_POLL_HUP,
  SLIRP_POLL_IN,
  SLIRP_POLL_OUT,
  SLIRP_POLL_PRI,
  slirpCallbacks,
  timerCallback,
  type Pointer,
  type SlirpLibrary,
} from './libslirp.ts';
import { ipv4Bytes, ipv4Text, type HostForward, type NatNetwork } from './nat-options.ts';
import { PollSet, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI } from './poll-set.ts';
import { ColoError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';

/** Longest IPv4 packet and its Ethernet header; slirp's buffers are not made for more. */
const MAX_FRAME_BYTES = 65_535 + 14;
const LONGEST_SLEEP_MS = 1000;
const SOCKADDR_IN_BYTES = 16;
const BACKLOG = 128;

const log = loggerFor('slirp');

const libc = koffi.load(null);
const memcpy = libc.func('memcpy', 'void *', ['void *', 'void *', 'size_t']) as unknown as (
  to: Uint8Array,
  from: Pointer,
  bytes: number,
) => void;
const getsockname = libc.func('getsockname', 'int', ['int', 'void *', 'void *']) as unknown as (
  fd: number,
  address: Uint8Array,
  length: Uint32Array,
) => number;
const listen = libc.func('listen', 'int', ['int', 'int']) as unknown as (
  fd: number,
  backlog: number,
) => number;

export interface SlirpOptions {
  readonly library: SlirpLibrary;
  readonly network: NatNetwork;
  /** The guest reaches nothing but what is forwarded to it (QEMU's restrict=on). */
  readonly isRestricted: boolean;
  /** A frame for the guest; the view is valid during the call only. */
  readonly onFrame: (frame: Uint8Array) => void;
  /** After a turn: everything for now was said. */
  readonly onTurnEnd: () => void;
}

interface SlirpTimer {
  readonly callback: Pointer;
  readonly opaque: Pointer | null;
  timeout: NodeJS.Timeout | null;
}

export class Slirp {
  readonly #library: SlirpLibrary;
  readonly #network: NatNetwork;
  readonly #onFrame: (frame: Uint8Array) => void;
  readonly #onTurnEnd: () => void;
  readonly #slirp: Pointer;
  readonly #pollSet: PollSet;
  readonly #registered: Pointer[] = [];
  readonly #callbacks: unknown;
  readonly #addPoll: Pointer;
  readonly #getREvents: Pointer;
  readonly #scratch = new Uint8Array(MAX_FRAME_BYTES);
  readonly #timeoutMs = new Uint32Array(1);
  readonly #timers = new Map<bigint, SlirpTimer>();
  #nextTimer = 1n;
  #wake: NodeJS.Timeout | null = null;
  #wakeAt = Infinity;
  #pending: NodeJS.Immediate | null = null;
  #isClosed = false;

  /** Throws ColoError when slirp refuses the configuration. */
  constructor(options: SlirpOptions) {
    this.#library = options.library;
    this.#network = options.network;
    this.#onFrame = options.onFrame;
    this.#onTurnEnd = options.onTurnEnd;
    this.#pollSet = new PollSet(() => this.#turn());
    this.#addPoll = this.#register(addPollCallback, (fd: number, events: number) =>
      this.#pollSet.add(fd, toPollEvents(events)),
    );
    this.#getREvents = this.#register(getREventsCallback, (index: number) =>
      toSlirpEvents(this.#pollSet.readyAt(index)),
    );
    this.#callbacks = koffi.alloc(slirpCallbacks, 1);
    koffi.encode(this.#callbacks, slirpCallbacks, this.#callbackTable());
    const slirp = this.#library.slirpNew(configOf(options), this.#callbacks, null);
    if (slirp === null) {
      this.#release();
      throw new ColoError(`libslirp ${this.#library.version} refused the network ${this.#network.cidr}`);
    }
    this.#slirp = slirp;
    this.#rearm();
  }

  /** A frame from the guest; read during the call only. */
  input(frame: Uint8Array): void {
    if (this.#isClosed || frame.length > MAX_FRAME_BYTES) return;
    this.#library.input(this.#slirp, frame, frame.length);
    // New connections are to be polled, and slirp's clock may have to run: once per burst, after it.
    this.#pending ??= setImmediate(() => {
      this.#pending = null;
      this.#turn();
    });
  }

  /** Forwards a port of the host to the guest. Returns the host's port. Throws ColoError when it cannot be bound. */
  addHostForward(forward: HostForward): number {
    this.#rearm();
    const known = new Set<number>();
    for (let i = 0; i < this.#pollSet.size; i++) known.add(this.#pollSet.fdAt(i));
    const guest = forward.guestAddress === null ? this.#network.dhcpStart : ipv4Bytes(forward.guestAddress);
    const result = this.#library.addHostfwd(
      this.#slirp,
      forward.protocol === 'udp' ? 1 : 0,
      { s_addr: ipv4Bytes(forward.hostAddress) },
      forward.hostPort,
      { s_addr: guest },
      forward.guestPort,
    );
    const where = `${forward.protocol}:${forward.hostAddress}:${forward.hostPort}`;
    if (result !== 0) throw new ColoError(`cannot forward ${where} to the guest: ${errnoText()}`);
    this.#rearm();
    let port = forward.hostPort;
    for (let i = 0; i < this.#pollSet.size; i++) {
      const fd = this.#pollSet.fdAt(i);
      if (known.has(fd)) continue;
      // libslirp listens with a backlog of 1: some of a browser's six connections would wait a second for a SYN
      // to be sent again.
      if (forward.protocol === 'tcp') listen(fd, BACKLOG);
      // It does not tell which port it got either, but its socket does.
      const address = new Uint8Array(SOCKADDR_IN_BYTES);
      if (port === 0 && getsockname(fd, address, Uint32Array.of(SOCKADDR_IN_BYTES)) === 0) {
        port = (address[2]! << 8) | address[3]!;
      }
    }
    if (port !== 0) return port;
    throw new ColoError(
      `cannot forward ${where} to the guest: libslirp did not show its socket; name a port`,
    );
  }

  /** Ends all connections through the NAT and frees the instance. Not to be called from `onFrame`. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#pending) clearImmediate(this.#pending);
    if (this.#wake) clearTimeout(this.#wake);
    this.#library.cleanup(this.#slirp);
    this.#release();
  }

  /** Poll, let slirp work on what is ready, ask what to wait for. */
  #turn(): void {
    if (this.#isClosed) return;
    // Indices are those of the last fill; a socket made since has none yet, one closed since is never asked for.
    const hasFailed = !this.#pollSet.probe();
    this.#library.pollfdsPoll(this.#slirp, hasFailed ? 1 : 0, this.#getREvents, null);
    this.#rearm();
    this.#onTurnEnd();
  }

  #rearm(): void {
    this.#timeoutMs[0] = LONGEST_SLEEP_MS;
    this.#pollSet.begin();
    this.#library.pollfdsFill(this.#slirp, this.#timeoutMs, this.#addPoll, null);
    this.#pollSet.commit();
    this.#wakeWithin(this.#timeoutMs[0]);
  }

  /** A timer that already fires sooner is left alone: a turn too many is harmless, a timer per turn is not free. */
  #wakeWithin(ms: number): void {
    const at = performance.now() + ms;
    if (this.#wakeAt <= at) return;
    if (this.#wake) clearTimeout(this.#wake);
    this.#wakeAt = at;
    this.#wake = setTimeout(() => {
      this.#wakeAt = Infinity;
      this.#turn();
    }, ms);
  }

  #callbackTable(): Record<keyof typeof callbackTypes, Pointer> {
    const table = {
      send_packet: (bytes: Pointer, length: number | bigint) => this.#sendPacket(bytes, Number(length)),
      guest_error: (message: string) => log.debug(`guest error: ${message}`),
      clock_get_ns: () => process.hrtime.bigint(),
      timer_new: (callback: Pointer, opaque: Pointer | null) => {
        const id = this.#nextTimer++;
        this.#timers.set(id, { callback, opaque, timeout: null });
        return id;
      },
      timer_free: (id: Pointer) => {
        const timer = this.#timers.get(id);
        if (timer?.timeout) clearTimeout(timer.timeout);
        this.#timers.delete(id);
      },
      timer_mod: (id: Pointer, expireMs: number | bigint) => this.#startTimer(id, Number(expireMs)),
      // Every turn asks for the whole set; only a number that is about to be reused needs care.
      register_poll_fd: (fd: number) => this.#pollSet.forget(fd),
      unregister_poll_fd: (fd: number) => this.#pollSet.forget(fd),
      notify: () => undefined,
    };
    const names = Object.keys(callbackTypes) as (keyof typeof callbackTypes)[];
    return Object.fromEntries(
      names.map((name) => [name, this.#register(callbackTypes[name], table[name])]),
    ) as Record<keyof typeof callbackTypes, Pointer>;
  }

  #sendPacket(bytes: Pointer, length: number): number {
    if (length > MAX_FRAME_BYTES) return -1;
    // slirp's buffer is on its stack; a copy is cheaper than an external ArrayBuffer for each frame.
    memcpy(this.#scratch, bytes, length);
    this.#onFrame(this.#scratch.subarray(0, length));
    return length;
  }

  /** `expireMs`: on the clock of clock_get_ns, in milliseconds. */
  #startTimer(id: Pointer, expireMs: number): void {
    const timer = this.#timers.get(id);
    if (!timer) return;
    if (timer.timeout) clearTimeout(timer.timeout);
    const delayMs = Math.max(0, expireMs - Number(process.hrtime.bigint() / 1_000_000n));
    timer.timeout = setTimeout(() => {
      timer.timeout = null;
      koffi.call(timer.callback, timerCallback, timer.opaque);
      this.#onTurnEnd();
    }, delayMs);
  }

  /** Nothing may be thrown through C: a callback that fails answers 0 and is logged. */
  #register(type: ReturnType<typeof koffi.proto>, callback: (...args: never[]) => unknown): Pointer {
    const guarded = (...args: never[]): unknown => {
      try {
        return callback(...args);
      } catch (error) {
        log.error(`a callback failed: ${messageOf(error)}`);
        return 0;
      }
    };
    const pointer = koffi.register(guarded, koffi.pointer(type));
    this.#registered.push(pointer);
    return pointer;
  }

  #release(): void {
    for (const { timeout } of this.#timers.values()) if (timeout) clearTimeout(timeout);
    this.#timers.clear();
    this.#pollSet.close();
    for (const pointer of this.#registered) koffi.unregister(pointer);
    this.#registered.length = 0;
    koffi.free(this.#callbacks);
  }
}

function configOf({ network, isRestricted }: SlirpOptions): object {
  const none6 = { s6_addr: new Uint8Array(16) };
  return {
    version: 1,
    restricted: isRestricted ? 1 : 0,
    in_enabled: true,
    vnetwork: { s_addr: network.network },
    vnetmask: { s_addr: network.mask },
    vhost: { s_addr: network.gateway },
    in6_enabled: false,
    vprefix_addr6: none6,
    vprefix_len: 64,
    vhost6: none6,
    vhostname: null,
    tftp_server_name: null,
    tftp_path: null,
    bootfile: null,
    vdhcp_start: { s_addr: network.dhcpStart },
    vnameserver: { s_addr: network.dns },
    vnameserver6: none6,
    vdnssearch: null,
    vdomainname: null,
    if_mtu: 0,
    if_mru: 0,
    disable_host_loopback: false,
    enable_emu: false,
  };
}

function toPollEvents(events: number): number {
  return (
    (events & SLIRP_POLL_IN ? POLLIN : 0) |
    (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
    (events & SLIRP_POLL_PRI ? POLLPRI : 0)
  );
}

function toSlirpEvents(ready: number): number {
  return (
    (ready & POLLIN ? SLIRP_POLL_IN : 0) |
    (ready & POLLOUT ? SLIRP_POLL_OUT : 0) |
    (ready & POLLPRI ? SLIRP_POLL_PRI : 0) |
    (ready & POLLERR ? SLIRP_POLL_ERR : 0) |
    (ready & POLLHUP ? SLIRP_POLL_HUP : 0)
  );
}

/** strerror of the last foreign call. */
function errnoText(): string {
  const errno = koffi.errno();
  return getSystemErrorMap().get(-errno)?.[1] ?? `errno ${errno}`;
}

/** The address that a forward without one leads to. */
export function guestAddressOf(forward: HostForward, network: NatNetwork): string {
  return forward.guestAddress ?? ipv4Text(network.dhcpStart);
}
