/**
 * Frames in and out of the two rings of a virtio-net device. A frame has a virtio-net header of 12 bytes in front here,
 * whatever the guest's has: `struct virtio_net_hdr_v1`, of which older drivers without merged buffers know the first 10.
 * Facts: virtio 1.2, 5.1.6 "Device Operation".
 */
import {
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_TYPE_AT,
  VNET_DATA_VALID,
  VNET_HEADER_BYTES,
  VNET_NEEDS_CSUM,
} from '../../../net/offload.ts';
import { MAX_FRAME_BYTES } from '../../../net/framing.ts';
import { FEATURE } from './features.ts';
import type { SplitRing } from './split-ring.ts';

const SHORT_HEADER_BYTES = 10;
const NUM_BUFFERS_AT = 10;
/** 14 bytes of Ethernet header: nothing shorter is a frame. */
const MIN_FRAME_BYTES = 14;

/** The length of the header in the rings of a guest that has accepted `features`. */
export function headerBytesOf(features: bigint): number {
  return (features & (FEATURE.VERSION_1 | FEATURE.MRG_RXBUF)) === 0n ? SHORT_HEADER_BYTES : VNET_HEADER_BYTES;
}

export interface FrameCounts {
  /** Chains and frames that no NIC could have. */
  malformed: number;
}

/** What the guest sends. */
export class TransmitRing {
  readonly #ring: SplitRing;
  readonly #headerBytes: number;
  readonly #counts: FrameCounts;

  constructor(ring: SplitRing, features: bigint, counts: FrameCounts) {
    this.#ring = ring;
    this.#headerBytes = headerBytesOf(features);
    this.#counts = counts;
  }

  /**
   * Takes up to `budget` frames and gives each to `onFrame` in `buffer`, with its header. True: there may be more.
   * Throws ProtocolError when the ring makes no sense.
   */
  drain(budget: number, buffer: Buffer, onFrame: (frame: Uint8Array) => void): boolean {
    const ring = this.#ring;
    for (let count = 0; count < budget; count++) {
      ring.begin();
      if (!ring.take(false)) return false;
      const bytes = this.#read(buffer);
      // Before the frame goes on: whatever that does, this chain is settled.
      ring.give(0);
      if (bytes > 0) onFrame(buffer.subarray(0, bytes));
      else this.#counts.malformed++;
    }
    return true;
  }

  /** The length with the header; 0: it is no frame. */
  #read(buffer: Buffer): number {
    const ring = this.#ring;
    const frameBytes = ring.bytes - this.#headerBytes;
    if (frameBytes < MIN_FRAME_BYTES || frameBytes > MAX_FRAME_BYTES - VNET_HEADER_BYTES) return 0;
    const at = VNET_HEADER_BYTES - this.#headerBytes;
    ring.read(buffer, at, ring.bytes);
    if (at > 0) buffer.copyWithin(0, at, VNET_HEADER_BYTES);
    // What a driver leaves there means nothing, and two copies of a guest may differ in it.
    buffer.fill(0, NUM_BUFFERS_AT, VNET_HEADER_BYTES);
    return VNET_HEADER_BYTES + frameBytes;
  }
}

export type Delivery = 'taken' | 'no room' | 'refused';

/** What the guest receives. */
export class ReceiveRing {
  readonly #ring: SplitRing;
  readonly #headerBytes: number;
  readonly #isMerging: boolean;
  readonly #header = Buffer.alloc(VNET_HEADER_BYTES);
  readonly #features: bigint;

  constructor(ring: SplitRing, features: bigint) {
    this.#ring = ring;
    this.#features = features;
    this.#headerBytes = headerBytesOf(features);
    this.#isMerging = (features & FEATURE.MRG_RXBUF) !== 0n;
    // Buffers come all the time; only who has none wants to hear of them.
    ring.askForKicks(false);
  }

  /** The guest has said that it can do what the frame's header asks for. */
  accepts(frame: Uint8Array): boolean {
    const gso = frame[GSO_TYPE_AT]!;
    if ((frame[0]! & VNET_NEEDS_CSUM) !== 0 && !this.#has(FEATURE.GUEST_CSUM)) return false;
    if ((gso & GSO_ECN) !== 0 && !this.#has(FEATURE.GUEST_ECN)) return false;
    switch (gso & ~GSO_ECN) {
      case GSO_NONE:
        return true;
      case GSO_TCPV4:
        return this.#has(FEATURE.GUEST_TSO4);
      case GSO_TCPV6:
        return this.#has(FEATURE.GUEST_TSO6);
      default:
        return false;
    }
  }

  #has(feature: bigint): boolean {
    return (this.#features & feature) !== 0n;
  }

  /**
   * Puts a frame with its header into the guest's buffers. `no room`: there are not enough now, and the driver will tell
   * of new ones. `refused`: the one buffer that is to take it all is too small. Throws ProtocolError as `take`.
   */
  deliver(frame: Uint8Array): Delivery {
    const ring = this.#ring;
    const bytes = this.#headerBytes + frame.length - VNET_HEADER_BYTES;
    ring.begin();
    while (ring.bytes < bytes) {
      if (ring.chains > 0 && !this.#isMerging) return 'refused';
      if (ring.take(true)) continue;
      ring.askForKicks(true);
      // They may have come just before the driver could know.
      if (ring.available === 0) return 'no room';
      ring.askForKicks(false);
    }
    const header = this.#header;
    header.set(frame.subarray(0, SHORT_HEADER_BYTES));
    header[0]! &= this.#has(FEATURE.GUEST_CSUM) ? VNET_NEEDS_CSUM | VNET_DATA_VALID : 0;
    header.writeUInt16LE(ring.chains, NUM_BUFFERS_AT);
    ring.write(0, header, this.#headerBytes);
    ring.write(this.#headerBytes, frame.subarray(VNET_HEADER_BYTES), frame.length - VNET_HEADER_BYTES);
    ring.give(bytes);
    return 'taken';
  }

  /** The driver has told of new buffers. */
  hasRoom(): void {
    this.#ring.askForKicks(false);
  }
}
