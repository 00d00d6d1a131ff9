/**
 * Hold for a dead port: what the port of a killed VM would have received, kept for the VM's twin.
 *
 * When a port closes, its addresses are gone for the moment between the death of one host process and the first frame
 * of its twin. A plain switch floods or loses the frames of that moment, and those which lay unread in the dead
 * process's socket; TCP notices by timeout, 200 ms to seconds later. Here a stand-in takes the dead port's place: it
 * keeps the frames last sent to the port, then every frame to one of its addresses and every group frame, in order;
 * when an address is heard on another port (an announcement or any frame), its frames are delivered there.
 *
 * Duplicates: the dead VM may have read some of the last frames, and its twin, which runs in lock-step, may have been
 * given them; a flooded group frame may reach the twin's port twice. Ethernet and IP never promised single delivery
 * (a retransmission looks the same), TCP discards by sequence number what it has (RFC 9293, 3.10.7.4) and answers with
 * an ACK at most, ARP is idempotent, and a protocol over UDP must bear it. So when in doubt, a frame is kept.
 *
 * Bounded in time, per address and as a whole. When full, the newest frame is dropped: what TCP then lacks is a tail,
 * which it resends in one go.
 */
import { isGroupDestination, macAt } from './ethernet.ts';

export interface HoldLimits {
  /** How long the stand-in of a dead port lives, in milliseconds. */
  readonly windowMs: number;
  /** Bytes kept for one address; also the bound of a port's group frames. */
  readonly bytesPerMac: number;
  /** Bytes kept in all. */
  readonly bytesTotal: number;
  /** What a port remembers of the frames sent to it, in case it dies: not older than this, in milliseconds. */
  readonly recordMs: number;
  /** ... and at most so many bytes. */
  readonly recordBytes: number;
}

export const DEFAULT_HOLD_LIMITS: HoldLimits = {
  windowMs: 2000,
  bytesPerMac: 1024 * 1024,
  bytesTotal: 64 * 1024 * 1024,
  // A process that is starved for a while before it dies leaves frames of that while unread.
  recordMs: 1000,
  recordBytes: 256 * 1024,
};

/** Counted on top of each kept frame, so that the smallest frames are bounded too. */
const OVERHEAD_BYTES = 64;
/** The key of group frames among a stand-in's. No station has it: it is the broadcast address. */
const GROUP = 0xffff_ffff_ffff;

interface KeptFrame {
  readonly key: number;
  readonly bytes: Uint8Array;
}

interface StandIn {
  /** Bytes kept for each address still awaited, and for GROUP. */
  readonly kept: Map<number, number>;
  frames: KeptFrame[];
  readonly timer: NodeJS.Timeout;
}

export class Hold {
  readonly limits: HoldLimits;
  readonly #byMac = new Map<number, StandIn>();
  readonly #standIns = new Set<StandIn>();
  #totalBytes = 0;
  /** Frames kept, delivered, given up when their time was over, and refused by a bound. */
  readonly counters = { kept: 0, delivered: 0, expired: 0, dropped: 0 };

  constructor(limits: HoldLimits = DEFAULT_HOLD_LIMITS) {
    this.limits = limits;
  }

  /** False costs the switch one comparison per frame: no port died lately. */
  get active(): boolean {
    return this.#standIns.size > 0;
  }

  /**
   * A port with `macs` has closed. `recent`: the frames sent to it last, oldest first, maybe unread; views that nobody
   * overwrites (they are kept).
   */
  portClosed(macs: readonly number[], recent: readonly Uint8Array[]): void {
    if (macs.length === 0) return;
    const standIn: StandIn = {
      kept: new Map([[GROUP, 0]]),
      frames: [],
      timer: setTimeout(() => this.#expire(standIn), this.limits.windowMs),
    };
    this.#standIns.add(standIn);
    for (const mac of macs) {
      standIn.kept.set(mac, 0);
      this.#byMac.set(mac, standIn);
    }
    for (const frame of recent) {
      const key = isGroupDestination(frame) ? GROUP : macAt(frame, 0);
      if (standIn.kept.has(key)) this.#keep(standIn, key, frame);
    }
  }

  /** Keeps a copy of a frame to `mac`. False when no dead port had that address. */
  keepUnicast(mac: number, frame: Uint8Array): boolean {
    const standIn = this.#byMac.get(mac);
    if (!standIn) return false;
    this.#keep(standIn, mac, new Uint8Array(frame));
    return true;
  }

  /** Keeps a copy of a broadcast or multicast frame for every dead port. */
  keepGroup(frame: Uint8Array): void {
    const copy = new Uint8Array(frame);
    for (const standIn of this.#standIns) this.#keep(standIn, GROUP, copy);
  }

  /**
   * `mac` was heard on a living port: returns what was kept for it, and the dead port's group frames if no address of
   * that port was released before; in the order in which they came.
   */
  release(mac: number): Uint8Array[] {
    const standIn = this.#byMac.get(mac);
    if (!standIn) return [];
    const out: Uint8Array[] = [];
    const left: KeptFrame[] = [];
    for (const frame of standIn.frames) {
      if (frame.key !== mac && frame.key !== GROUP) {
        left.push(frame);
        continue;
      }
      out.push(frame.bytes);
      this.#totalBytes -= frame.bytes.length + OVERHEAD_BYTES;
    }
    standIn.frames = left;
    standIn.kept.delete(mac);
    // A second address on the same port gets no second copy, and later group frames are flooded to it anyway.
    standIn.kept.delete(GROUP);
    this.#byMac.delete(mac);
    if (standIn.kept.size === 0) this.#forget(standIn);
    this.counters.delivered += out.length;
    return out;
  }

  close(): void {
    for (const standIn of this.#standIns) this.#expire(standIn);
  }

  #keep(standIn: StandIn, key: number, bytes: Uint8Array): void {
    const before = standIn.kept.get(key);
    if (before === undefined) return;
    const cost = bytes.length + OVERHEAD_BYTES;
    if (before + cost > this.limits.bytesPerMac || this.#totalBytes + cost > this.limits.bytesTotal) {
      this.counters.dropped++;
      return;
    }
    standIn.kept.set(key, before + cost);
    this.#totalBytes += cost;
    standIn.frames.push({ key, bytes });
    this.counters.kept++;
  }

  #expire(standIn: StandIn): void {
    this.counters.expired += standIn.frames.length;
    for (const frame of standIn.frames) this.#totalBytes -= frame.bytes.length + OVERHEAD_BYTES;
    standIn.frames = [];
    for (const mac of standIn.kept.keys()) if (this.#byMac.get(mac) === standIn) this.#byMac.delete(mac);
    this.#forget(standIn);
  }

  #forget(standIn: StandIn): void {
    clearTimeout(standIn.timer);
    this.#standIns.delete(standIn);
  }
}
