/**
 * One TCP connection of a secondary guest whose numbers differ from those that the client knows (the primary's). Pure
 * bookkeeping on header fields: reads a PacketView, keeps what is to be added and subtracted, and knows when the
 * connection has ended. Facts: docs/qemu-behaviour.md 4; RFC 793 3.2-3.9, RFC 7323 3. Beyond QEMU it maps connections
 * that the guest opens, and timestamps, and it follows FIN and RST in the guest's own numbers.
 *
 * Directions are named from the guest: `in` is client → guest, `out` is guest → client. `offset` and `clock` are what the
 * guest's sequence numbers and timestamps are ahead of the primary's, mod 2^32.
 *
 * A connection begins with the SYN or SYN+ACK that the guest says: a client's SYN alone proves nothing (the guest may
 * answer it with a challenge ACK and stay where it is). The primary's number is learned from what the client
 * acknowledges, because the secondary never sees a packet of the primary's guest.
 */
import { Flow } from '../flow-table.ts';
import { TCP_FLAG, laterOf, sequenceDifference } from '../packet.ts';
import type { PacketView } from '../packet.ts';

export type HandshakeState = 'synReceived' | 'synSent' | 'established';

/** In place of a timestamp: the segment has none. */
export const NO_STAMP = -1;
/**
 * How far the guest's clock may lag behind the primary's, in ticks of its timestamps: a checkpoint is loaded later than
 * its primary goes on. What is further away is some other clock.
 */
const MAX_LAG_TICKS = 60_000;
/** Largest window (RFC 7323 2.3): a segment beyond it is of another connection. */
const MAX_WINDOW = 2 ** 30;

/** Keyed in the `out` direction. */
export class TcpMapping extends Flow {
  state: HandshakeState = 'established';
  offset = 0;
  clock = 0;
  /** The guest's own initial sequence number, once it has said it. */
  guestSyn: number | null = null;
  /** The timestamp of its first SYN: of several the one that makes the primary's clock no earlier than it was. */
  guestStamp = NO_STAMP;
  /** The client's first number behind its SYN, as the guest's SYN+ACK names it. */
  #clientNext: number | null = null;
  /** The latest of the primary's timestamps that the client has repeated. */
  #echo = NO_STAMP;
  /** What acknowledges the FIN of that direction, in the guest's numbers and in the client's. */
  #outFinEnd: number | null = null;
  #inFinEnd: number | null = null;
  #outFinAcked = false;
  #inFinAcked = false;
  #isReset = false;

  /** Both directions have been closed, or one side reset the connection. A new SYN opens it again. */
  get isClosed(): boolean {
    return this.#isReset || (this.#outFinAcked && this.#inFinAcked);
  }

  /** Whether it says anything that the plain numbers do not. */
  get isPlain(): boolean {
    return this.state === 'established' && this.offset === 0 && this.clock === 0;
  }

  /** Client → guest; `echo` is its timestamp echo reply. Afterwards the acknowledgment is to be moved by `offset`. */
  incoming(view: PacketView, echo: number): void {
    const flags = view.tcpFlags;
    if (flags & TCP_FLAG.ACK) {
      if (this.state !== 'established') this.#learn(view, echo);
      if (this.state === 'established' && echo !== NO_STAMP) {
        this.#echo = this.#echo === NO_STAMP ? echo : laterOf(this.#echo, echo);
      }
    }
    if (flags & TCP_FLAG.RST) this.#isReset = true;
    if (flags & TCP_FLAG.FIN) this.#inFinEnd = (view.sequence + view.payloadBytes + 1) >>> 0;
    if (flags & TCP_FLAG.ACK && this.#outFinEnd !== null) {
      const acked = (view.acknowledgment + this.offset) >>> 0;
      if (sequenceDifference(acked, this.#outFinEnd) >= 0) this.#outFinAcked = true;
    }
  }

  /** True when the guest's SYN (or SYN+ACK) in `view` belongs to another connection than the one followed here. */
  isOtherConnection(view: PacketView): boolean {
    return view.sequence !== this.guestSyn;
  }

  /** Guest → client; `stamp` is its timestamp. Afterwards the sequence number is to be moved back by `offset`. */
  outgoing(view: PacketView, stamp: number): void {
    const flags = view.tcpFlags;
    if (flags & TCP_FLAG.SYN) {
      if (this.isOtherConnection(view)) this.#reopen(view.sequence, stamp);
      if (flags & TCP_FLAG.ACK && this.state !== 'established') {
        // Also what was opened by the guest first: both sides have opened at once (RFC 793 3.4).
        this.state = 'synReceived';
        this.#clientNext = view.acknowledgment;
      }
    }
    if (flags & TCP_FLAG.FIN) this.#outFinEnd = (view.sequence + view.payloadBytes + 1) >>> 0;
    if (flags & TCP_FLAG.ACK && this.#inFinEnd !== null) {
      if (sequenceDifference(view.acknowledgment, this.#inFinEnd) >= 0) this.#inFinAcked = true;
    }
    // A guest that says anything but RST did not believe the client's.
    this.#isReset = (flags & TCP_FLAG.RST) !== 0;
  }

  /**
   * The client has repeated a later timestamp than this one of the guest's: it would drop what the guest says (RFC 7323
   * 5.3) until the guest's clock has caught up. From here on the clock is moved forward.
   */
  followClock(stamp: number): void {
    if (this.state !== 'established' || this.#echo === NO_STAMP) return;
    const lag = sequenceDifference(this.#echo, (stamp - this.clock) >>> 0);
    if (lag > 0 && lag <= MAX_LAG_TICKS) this.clock = (this.clock - lag) >>> 0;
  }

  #reopen(guestSyn: number, stamp: number): void {
    this.state = 'synSent';
    this.offset = 0;
    this.clock = 0;
    this.guestSyn = guestSyn;
    this.guestStamp = stamp;
    this.#clientNext = null;
    this.#echo = NO_STAMP;
    this.#outFinEnd = null;
    this.#inFinEnd = null;
    this.#outFinAcked = false;
    this.#inFinAcked = false;
  }

  /** The client acknowledges the primary's SYN: that number is the primary's initial one plus 1. */
  #learn(view: PacketView, echo: number): void {
    if (this.guestSyn === null || !this.#answersSyn(view)) return;
    this.offset = (this.guestSyn - (view.acknowledgment - 1)) >>> 0;
    // The same number means the same connection: this SYN is a repetition of one from before a checkpoint.
    if (this.offset !== 0 && this.guestStamp !== NO_STAMP && echo !== NO_STAMP && echo !== 0) {
      this.clock = (this.guestStamp - echo) >>> 0;
    }
    this.state = 'established';
  }

  #answersSyn(view: PacketView): boolean {
    // A bare ACK to the guest's SYN is about an older connection: the guest resets that with the number it was given.
    if (this.state === 'synSent') return (view.tcpFlags & (TCP_FLAG.SYN | TCP_FLAG.RST)) !== 0;
    if (this.#clientNext === null) return true;
    const ahead = sequenceDifference(view.sequence, this.#clientNext);
    return ahead >= -1 && ahead < MAX_WINDOW;
  }
}
