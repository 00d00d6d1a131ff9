/**
 * One NIC's incoming side, in the worker: frames wait here in order while the guest is paused or its NIC has no room
 * (v86 would drop them), within bounds; beyond those the oldest go. Facts: v86's Ne2k.receive and VirtioNet.
 */
import { MAX_FRAME_BYTES, MAX_WAITING_FRAME_BYTES, MAX_WAITING_FRAMES } from './protocol.ts';
import type { V86Ne2k, V86VirtioNet } from './internals.ts';

/** Whether the NIC can take a frame of `bytes` bytes now. */
export type HasRoom = (bytes: number) => boolean;

/**
 * Linux's 8390 driver takes nine frames an interrupt and then acknowledges them all (lib8390.c, ei_receive); what else is
 * in the ring waits until one more frame comes. So the ring never holds more than it takes at once.
 */
const NE2K_FRAMES_AT_ONCE = 8;

/** An ne2k's receive ring: whether it has room, and how many frames it has been given since it was last empty. */
export class Ne2kRing {
  readonly #nic: V86Ne2k;
  #given = NE2K_FRAMES_AT_ONCE;

  constructor(nic: V86Ne2k) {
    this.#nic = nic;
  }

  readonly hasRoom: HasRoom = (bytes) => {
    const { cr, boundary, curpg, pstart, pstop } = this.#nic;
    if ((cr & 1) !== 0 || boundary === 0) return true; // stopped: it drops the frame, as the real one does
    const needed = 1 + ((Math.max(60, bytes) + 4) >> 8);
    const available = boundary > curpg ? boundary - curpg : pstop - curpg + boundary - pstart;
    // Linux keeps the boundary one page behind what it has read.
    if (available >= pstop - pstart - 1) this.#given = 0;
    // One page stays free: a full ring looks like an empty one (write page equals boundary).
    return available > needed && this.#given < NE2K_FRAMES_AT_ONCE;
  };

  /** A frame was put into it. */
  gave(): void {
    this.#given++;
  }

  /** A state was loaded: how many frames are in its ring is not known, so it has to become empty first. */
  restored(): void {
    this.#given = NE2K_FRAMES_AT_ONCE;
  }
}

/** Bits of the receive configuration register. */
const TAKES_MULTICAST = 8;
const TAKES_ALL = 16;

/**
 * What the receive configuration register has to be while the NIC receives `frame`. Told to take multicast, v86's NIC
 * drops it all, and IPv6 finds no neighbour. A real one goes by a hash of the addresses that were asked for; what it
 * takes beyond them the guest drops by itself.
 */
export function ne2kReceiveMode({ rxcr }: Pick<V86Ne2k, 'rxcr'>, frame: Uint8Array): number {
  return (rxcr & TAKES_MULTICAST) !== 0 && (frame[0]! & 1) === 1 ? rxcr | TAKES_ALL : rxcr;
}

export function virtioHasRoom(nic: V86VirtioNet): HasRoom {
  return () => {
    const queue = nic.virtio.queues[0]!;
    return !queue.enabled || queue.has_request();
  };
}

/** v86 would read descriptors from address 0 while the guest has set up no queue; a real NIC drops the frame. */
export function virtioTakesFrames(nic: V86VirtioNet): boolean {
  return nic.virtio.queues[0]!.enabled;
}

export class NetPort {
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** How many of the waiting ones had arrived when the guest was paused: they belong to its state. */
  #waitingAtPause = 0;
  readonly #inject: (frame: Uint8Array) => void;
  readonly #hasRoom: HasRoom;
  readonly #onDropped: () => void;
  readonly #onRestored: () => void;
  isOpen = false;

  constructor(
    inject: (frame: Uint8Array) => void,
    hasRoom: HasRoom,
    onDropped: () => void,
    onRestored: () => void = () => undefined,
  ) {
    this.#inject = inject;
    this.#hasRoom = hasRoom;
    this.#onDropped = onDropped;
    this.#onRestored = onRestored;
  }

  /** Frames could be handed over right now. */
  get canPump(): boolean {
    const first = this.#waiting[0];
    return this.isOpen && first !== undefined && this.#hasRoom(first.length);
  }

  /** The guest stops: from here on frames wait. */
  close(): void {
    if (this.isOpen) this.#waitingAtPause = this.#waiting.length;
    this.isOpen = false;
  }

  /** A frame for the guest, which this keeps. */
  deliver(frame: Uint8Array): void {
    if (frame.length === 0 || frame.length > MAX_FRAME_BYTES) {
      this.#onDropped();
      return;
    }
    if (this.isOpen && this.#waiting.length === 0 && this.#hasRoom(frame.length)) {
      this.#inject(frame);
      return;
    }
    this.#waiting.push(frame);
    this.#waitingBytes += frame.length;
    while (this.#waiting.length > MAX_WAITING_FRAMES || this.#waitingBytes > MAX_WAITING_FRAME_BYTES) {
      this.#waitingBytes -= this.#waiting.shift()!.length;
      this.#waitingAtPause = Math.max(0, this.#waitingAtPause - 1);
      this.#onDropped();
    }
  }

  /** Hands over what the NIC has room for. */
  pump(): void {
    if (!this.isOpen || this.#waiting.length === 0) return;
    let taken = 0;
    for (const frame of this.#waiting) {
      if (!this.#hasRoom(frame.length)) break;
      this.#inject(frame);
      this.#waitingBytes -= frame.length;
      taken++;
    }
    if (taken > 0) this.#waiting.splice(0, taken);
  }

  /** Frames that had arrived before the pause and are not in the guest yet: part of the state. */
  savedFrames(): readonly Uint8Array[] {
    return this.#waiting.slice(0, this.#waitingAtPause);
  }

  /** Replaces them by another machine's; what arrived during the pause still comes after. */
  restoreFrames(frames: readonly Uint8Array[]): void {
    this.#onRestored();
    this.#waiting = [...frames, ...this.#waiting.slice(this.#waitingAtPause)];
    this.#waitingAtPause = frames.length;
    this.#waitingBytes = this.#waiting.reduce((sum, frame) => sum + frame.length, 0);
  }
}
