/**
 * One network backend of a VM: the filter chain between the guest's NIC (`guest`) and the outside (`wire`), and the
 * two switches COLO needs on it. It moves frames synchronously and keeps none, but for the bounded queue of `hold`.
 *
 * `wireEnabled = false` makes a secondary silent (docs/architecture.md, rule 1): nothing it says leaves, and nothing
 * from outside reaches it but what its filters inject. `hold()` keeps frames from the wire in front of the chain, so
 * that a mirror behind it stands still while a checkpoint is cut. `holdOutput()` keeps frames to the wire, of whatever
 * kind: a primary that has lost its secondary must not be heard, not even by ARP, or the switches send it what is meant
 * for the secondary that may have taken over.
 *
 * Where the guest leaves checksums and segmentation to its NIC, frames have a virtio-net header between guest and filters
 * (`vnetHeaderBytes`). A wire that knows none gets whole frames without it (offload.ts), and what it sends gets an empty one.
 *
 * The backends that carry `wire` are in netdevs/; who calls hold and release is the VM. Facts: docs/qemu-behaviour.md 2.
 */
import { announceFrame } from './announce.ts';
import { FilterChain } from './chain.ts';
import type { FilterPlace } from './chain.ts';
import type { Direction, FilterEvent, FilterHost, NetFilter } from './filter.ts';
import { MAX_FRAME_BYTES } from './framing.ts';
import { makeWhole, withEmptyHeader } from './offload.ts';

export const HOLD_LIMIT_FRAMES = 4096;
export const HOLD_LIMIT_BYTES = 8 * 1024 * 1024;

export type FrameSink = (frame: Uint8Array) => void;

/** Where a frame from the wire gets its header; used up when the call ends. */
const withHeader = new Uint8Array(MAX_FRAME_BYTES);

export interface NetdevOptions {
  readonly id: string;
  readonly vnetHeaderBytes?: number;
  readonly holdLimitFrames?: number;
  readonly holdLimitBytes?: number;
}

export interface NetdevStats {
  fromWire: number;
  toWire: number;
  fromGuest: number;
  toGuest: number;
  /** Frames that lost their place in a hold queue to newer ones. */
  holdDropped: number;
  /** Frames that met a disabled wire, a link that is down, or nobody at the other end. */
  discarded: number;
}

export class Netdev implements FilterHost {
  readonly id: string;
  readonly vnetHeaderBytes: number;
  /**
   * Where frames for the guest go. The view is valid during the call only. Null: there is neither NIC nor hub port; as in
   * QEMU nothing is sent or injected then, and filters see nothing.
   */
  guest: FrameSink | null = null;
  /** Where frames for the outside go. The view is valid during the call only. */
  wire: FrameSink | null = null;
  /** The wire's frames have the header too. */
  hasVnetWire = false;
  /**
   * The netdev that stands back to back with this one, as a hub port does with `netdev=`; null in front of a NIC. What a
   * filter of one of the two injects goes past the other's filters; what is merely sent passes both chains.
   */
  peer: Netdev | null = null;
  /**
   * QMP set_link: nothing passes either way. As in QEMU a NIC knows and sends nothing; a peer does not, so that the
   * filters here still see what it sends.
   */
  linkDown = false;
  wireEnabled = true;
  readonly stats: NetdevStats = {
    fromWire: 0,
    toWire: 0,
    fromGuest: 0,
    toGuest: 0,
    holdDropped: 0,
    discarded: 0,
  };
  readonly #chain = new FilterChain();
  readonly #holdLimitFrames: number;
  readonly #holdLimitBytes: number;
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #holding = false;
  #output: Uint8Array[] | null = null;
  #outputBytes = 0;
  #draining = false;
  readonly #toWire = (frame: Uint8Array): void => {
    this.stats.toWire++;
    this.wire?.(frame);
  };

  constructor(options: NetdevOptions) {
    this.id = options.id;
    this.vnetHeaderBytes = options.vnetHeaderBytes ?? 0;
    this.#holdLimitFrames = options.holdLimitFrames ?? HOLD_LIMIT_FRAMES;
    this.#holdLimitBytes = options.holdLimitBytes ?? HOLD_LIMIT_BYTES;
  }

  get netdevId(): string {
    return this.id;
  }

  /** Head first. */
  get filters(): readonly NetFilter[] {
    return this.#chain.filters;
  }

  get holding(): boolean {
    return this.#holding;
  }

  get heldFrames(): number {
    return this.#held.length;
  }

  /** Throws ParameterError (QEMU's texts) when the place makes no sense. */
  insert(filter: NetFilter, place: FilterPlace = {}): void {
    this.#chain.insert(filter, place);
    filter.attached(this);
  }

  /** Takes a filter out of the chain; closing it is the caller's. */
  remove(filter: NetFilter): boolean {
    return this.#chain.remove(filter);
  }

  filterById(id: string): NetFilter | undefined {
    return this.#chain.byId(id);
  }

  /** A frame from outside: through the chain (tx, head → tail) to the guest. */
  receiveFromWire(frame: Uint8Array): void {
    if (!this.wireEnabled || this.linkDown || this.guest === null) {
      this.stats.discarded++;
      return;
    }
    if (this.vnetHeaderBytes === 0 || this.hasVnetWire) this.#fromWire(frame);
    else if (this.vnetHeaderBytes + frame.length > MAX_FRAME_BYTES) this.stats.discarded++;
    else this.#fromWire(withEmptyHeader(frame, withHeader));
  }

  #fromWire(frame: Uint8Array): void {
    this.stats.fromWire++;
    if (this.#holding || this.#draining) this.#keep(frame);
    else this.#towardGuest(frame);
  }

  /** A frame from the guest: through the chain (rx, tail → head) to the wire. */
  sendFromGuest(frame: Uint8Array): void {
    if (this.linkDown && this.peer === null) {
      this.stats.discarded++;
      return;
    }
    this.stats.fromGuest++;
    if (!this.#chain.walk(frame, 'rx')) this.#deliverToWire(frame);
  }

  passOn(from: NetFilter, packet: Uint8Array, direction: Direction): void {
    if (this.guest === null) {
      this.stats.discarded++;
      return;
    }
    if (this.#chain.walkOn(from, packet, direction)) return;
    if (direction === 'rx') this.#deliverToWire(packet);
    else if (this.peer === null) this.#deliverToGuest(packet);
    else {
      this.stats.toGuest++;
      this.peer.stats.fromGuest++;
      this.peer.#deliverToWire(packet);
    }
  }

  /** From now on frames from the wire wait, in order; the oldest are dropped past the limit. Idempotent. */
  hold(): void {
    this.#holding = true;
  }

  /** Lets the waiting frames walk, before any newer one. Idempotent. */
  release(): void {
    this.#holding = false;
    if (this.#draining) return;
    this.#draining = true;
    try {
      // A frame may make somebody hold again: what is left then stays where it is.
      while (this.#held.length > 0 && !this.#holdingAgain()) {
        const batch = this.#held;
        this.#held = [];
        this.#heldBytes = 0;
        let at = 0;
        for (; at < batch.length && !this.#holdingAgain(); at++) this.#towardGuest(batch[at]!);
        if (at < batch.length) {
          const later = this.#held;
          this.#held = [];
          this.#heldBytes = 0;
          for (const frame of batch.slice(at)) this.#append(frame);
          for (const frame of later) this.#append(frame);
        }
      }
    } finally {
      this.#draining = false;
    }
  }

  /** From now on frames to the wire wait, in order; the oldest are dropped past the limit. Idempotent. */
  holdOutput(): void {
    this.#output ??= [];
  }

  /** Lets them go. Idempotent. */
  releaseOutput(): void {
    const waiting = this.#output;
    this.#output = null;
    this.#outputBytes = 0;
    for (const frame of waiting ?? []) this.#deliverToWire(frame);
  }

  /** Tells every filter, head first. */
  notify(event: FilterEvent): void {
    for (const filter of [...this.#chain.filters]) filter.handleEvent(event);
  }

  /** Tells the switches outside where `mac` (six bytes) is now. Past the filters, straight to the wire. */
  announce(mac: Uint8Array): void {
    const frame = announceFrame(mac);
    this.#deliverToWire(this.vnetHeaderBytes === 0 ? frame : withEmptyHeader(frame, withHeader));
  }

  #holdingAgain(): boolean {
    return this.#holding;
  }

  #towardGuest(frame: Uint8Array): void {
    if (!this.#chain.walk(frame, 'tx')) this.#deliverToGuest(frame);
  }

  #deliverToGuest(frame: Uint8Array): void {
    if (this.guest === null || (this.linkDown && this.peer === null)) {
      this.stats.discarded++;
      return;
    }
    this.stats.toGuest++;
    this.guest(frame);
  }

  #deliverToWire(frame: Uint8Array): void {
    if (this.wire === null || !this.wireEnabled || this.linkDown) {
      this.stats.discarded++;
      return;
    }
    if (this.#output !== null) {
      this.#keepOutput(this.#output, frame);
      return;
    }
    if (this.vnetHeaderBytes === 0 || this.hasVnetWire) this.#toWire(frame);
    else if (!makeWhole(frame, this.#toWire)) this.stats.discarded++;
  }

  #keepOutput(queue: Uint8Array[], frame: Uint8Array): void {
    queue.push(new Uint8Array(frame));
    this.#outputBytes += frame.length;
    while (queue.length > this.#holdLimitFrames || this.#outputBytes > this.#holdLimitBytes) {
      this.#outputBytes -= queue.shift()?.length ?? 0;
      this.stats.holdDropped++;
    }
  }

  #keep(frame: Uint8Array): void {
    this.#append(new Uint8Array(frame));
  }

  #append(frame: Uint8Array): void {
    this.#held.push(frame);
    this.#heldBytes += frame.length;
    while (this.#held.length > this.#holdLimitFrames || this.#heldBytes > this.#holdLimitBytes) {
      const oldest = this.#held.shift();
      if (!oldest) break;
      this.#heldBytes -= oldest.length;
      this.stats.holdDropped++;
    }
  }
}
