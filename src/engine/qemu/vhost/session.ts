/**
 * One connection of a QEMU with the back-end of a NIC: what it has told so far, and the rings that follow from it. Knows
 * neither sockets nor the network; descriptors are numbers that it hands to `Host` to watch, signal and close.
 *
 * A ring runs from SET_VRING_KICK to GET_VRING_BASE while it is enabled (docs/interop/vhost-user.rst, "Ring states"). QEMU
 * stops the rings before its guest's state is saved, so that RAM, the indexes that QEMU saves and the frames that have
 * gone out agree: a frame of a stopped ring is either all gone or not begun. A ring that makes no sense rests until it is
 * set up anew, as a device whose driver is mad does in QEMU.
 */
import { ProtocolError } from '../../../base/errors.ts';
import { FEATURE, OFFERED, OFFERED_PROTOCOL } from './features.ts';
import { MemoryMap } from './guest-memory.ts';
import type { GuestMemory } from './guest-memory.ts';
import { encodeStateReply, encodeU64Reply } from './messages.ts';
import type { Header, Message } from './messages.ts';
import { SplitRing, ringBytes } from './split-ring.ts';

/** Receive, then transmit: a NIC with one pair of queues. */
export const RECEIVE = 0;
export const TRANSMIT = 1;
const RINGS = 2;

/** What a session needs done. */
export interface Host {
  /** The descriptor is of the guest's RAM. */
  isRam(fd: number): boolean;
  close(fd: number): void;
  /** A ring has begun to run, or (null) to rest. */
  changed(ring: number, running: RunningRing | null): void;
  /** The guest stands still, or is about to: what is in the ring is taken, unless it rests. */
  settle(ring: number): void;
}

/** What serves a ring. */
export interface RunningRing {
  readonly ring: SplitRing;
  readonly features: bigint;
  /** Readable when the driver has something to tell; -1: it never says. */
  readonly kickFd: number;
  /** Where it is told of what was used; -1: it does not want to know. */
  readonly callFd: () => number;
}

interface RingSetup {
  size: number;
  next: number;
  /** QEMU's addresses. */
  addresses: { descriptors: number; used: number; available: number } | null;
  kickFd: number;
  callFd: number;
  isStarted: boolean;
  isEnabled: boolean;
  running: SplitRing | null;
}

export class VhostSession {
  readonly #memory: GuestMemory;
  readonly #host: Host;
  #features = 0n;
  #map: MemoryMap | null = null;
  readonly #rings: RingSetup[] = Array.from({ length: RINGS }, () => ({
    size: 0,
    next: 0,
    addresses: null,
    kickFd: -1,
    callFd: -1,
    isStarted: false,
    isEnabled: false,
    running: null,
  }));

  constructor(memory: GuestMemory, host: Host) {
    this.#memory = memory;
    this.#host = host;
  }

  /**
   * Does what a message says; the descriptors that came with it are the session's from now on. Returns the answer, or
   * null. Throws ProtocolError: the connection is of no use any more.
   */
  handle(header: Header, message: Message, fds: readonly number[]): Buffer | null {
    const kept = new Set<number>();
    try {
      const answer = this.#act(header, message, fds, kept);
      return answer ?? (header.needsReply ? encodeU64Reply(header.request, 0n) : null);
    } finally {
      for (const fd of fds) if (!kept.has(fd)) this.#host.close(fd);
    }
  }

  /** The connection is gone. */
  close(): void {
    for (const [index, ring] of this.#rings.entries()) {
      this.#stop(index);
      this.#setFd(ring, 'kickFd', -1);
      this.#setFd(ring, 'callFd', -1);
    }
  }

  /** A ring made no sense: it rests until it is set up anew. */
  rest(index: number): void {
    const ring = this.#ringAt(index);
    if (ring.running) ring.next = ring.running.next;
    ring.running = null;
    this.#host.changed(index, null);
  }

  #act(header: Header, message: Message, fds: readonly number[], kept: Set<number>): Buffer | null {
    const { request } = header;
    switch (message.name) {
      case 'GET_FEATURES':
        return encodeU64Reply(request, OFFERED);
      case 'GET_PROTOCOL_FEATURES':
        return encodeU64Reply(request, OFFERED_PROTOCOL);
      case 'GET_QUEUE_NUM':
        return encodeU64Reply(request, 1n);
      case 'SET_FEATURES':
        if ((message.value & ~OFFERED) !== 0n) throw refused('features that were not offered');
        this.#features = message.value;
        return null;
      case 'SET_MEM_TABLE':
        for (const fd of fds) if (!this.#host.isRam(fd)) throw refused('memory that is not the guest’s RAM');
        this.#map = new MemoryMap(message.regions, this.#memory.byteLength);
        this.#restart();
        return null;
      case 'SET_LOG_BASE':
        // Nothing is logged: what we write is told to whoever captures the RAM.
        return encodeU64Reply(request, 0n);
      case 'SET_VRING_NUM':
        this.#ringAt(message.ring).size = message.value;
        return null;
      case 'SET_VRING_BASE':
        if (message.value > 0xffff) throw refused(`an index of ${message.value} in a ring`);
        this.#ringAt(message.ring).next = message.value;
        return null;
      case 'SET_VRING_ADDR': {
        const { descriptors, used, available } = message;
        this.#ringAt(message.ring).addresses = { descriptors, used, available };
        this.#restartRing(message.ring);
        return null;
      }
      case 'SET_VRING_KICK':
        this.#setFd(this.#ringAt(message.ring), 'kickFd', this.#take(fds, kept));
        this.#ringAt(message.ring).isStarted = true;
        this.#restartRing(message.ring);
        return null;
      case 'SET_VRING_CALL':
        this.#setFd(this.#ringAt(message.ring), 'callFd', this.#take(fds, kept));
        return null;
      case 'SET_VRING_ENABLE':
        this.#ringAt(message.ring).isEnabled = message.value === 1;
        this.#restartRing(message.ring);
        return null;
      case 'GET_VRING_BASE': {
        this.#ringAt(message.ring);
        this.#host.settle(message.ring);
        this.#stop(message.ring);
        return encodeStateReply(request, message.ring, this.#ringAt(message.ring).next);
      }
      case 'RESET_OWNER':
        for (let index = 0; index < RINGS; index++) this.#stop(index);
        return null;
      case 'SET_OWNER':
      case 'SET_PROTOCOL_FEATURES':
      case 'SET_LOG_FD':
      case 'SET_VRING_ERR':
      case 'SEND_RARP':
        return null;
    }
  }

  #ringAt(index: number): RingSetup {
    const ring = this.#rings[index];
    if (!ring) throw refused(`ring ${index} of ${RINGS}`);
    return ring;
  }

  #take(fds: readonly number[], kept: Set<number>): number {
    const [fd] = fds;
    if (fd === undefined) return -1;
    kept.add(fd);
    return fd;
  }

  #setFd(ring: RingSetup, which: 'kickFd' | 'callFd', fd: number): void {
    if (ring[which] >= 0) this.#host.close(ring[which]);
    ring[which] = fd;
  }

  /** From now on it rests; where it stood is what it begins with when it runs again. */
  #stop(index: number): void {
    const ring = this.#ringAt(index);
    ring.isStarted = false;
    if (ring.running) this.rest(index);
  }

  #restart(): void {
    for (let index = 0; index < RINGS; index++) this.#restartRing(index);
  }

  /** Something that it follows from has changed. */
  #restartRing(index: number): void {
    const ring = this.#ringAt(index);
    if (ring.running) this.rest(index);
    // Without protocol features there is no message that enables one.
    const isEnabled = ring.isEnabled || (this.#features & FEATURE.PROTOCOL) === 0n;
    const map = this.#map;
    const { addresses, size, next } = ring;
    if (!ring.isStarted || !isEnabled || !map || !addresses || size === 0) return;
    const bytes = ringBytes(size);
    const place = {
      size,
      next,
      descriptors: map.offsetOfUser(addresses.descriptors, bytes.descriptors),
      available: map.offsetOfUser(addresses.available, bytes.available),
      used: map.offsetOfUser(addresses.used, bytes.used),
    };
    // Size and places are the driver's choice: what is no ring rests.
    if (Math.min(place.descriptors, place.available, place.used) < 0) return;
    try {
      ring.running = new SplitRing(this.#memory, map, place);
    } catch (error) {
      if (error instanceof ProtocolError) return;
      throw error;
    }
    this.#host.changed(index, {
      ring: ring.running,
      features: this.#features,
      kickFd: ring.kickFd,
      callFd: () => ring.callFd,
    });
  }
}

function refused(what: string): ProtocolError {
  return new ProtocolError(`vhost-user: QEMU sent ${what}`);
}
