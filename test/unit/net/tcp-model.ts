/**
 * What a comparer owes one TCP connection, as a model that is slow and plain: the secondary's words are a map from
 * offset to byte, positions are offsets from the first byte (no wrapping arithmetic), nothing is cut, shared or reused.
 *
 * The promise (docs/architecture.md, rule 1; the order is the queue's):
 *
 *  - Order. Packets wait in order of arrival, except that one goes before those with a higher sequence number that
 *    arrived earlier; SYN and RST keep their place and nothing overtakes them. Only the first may leave.
 *  - Bytes. It leaves when all its bytes, and its FIN, lie before `floor`, or were said by the secondary at the same
 *    offset and do not begin behind `floor` (a gap in what the primary has said is filled by a retransmission first).
 *    `floor` is how far the primary's stream has left. On a connection first seen in its middle it begins with the first packet that
 *    leaves, and what begins before that waits for a checkpoint.
 *  - Signals. A SYN (SYN+ACK, RST) leaves when the secondary has said its own.
 *  - Acknowledgments. None leaves ahead of the secondary's highest, or of what a checkpoint holds.
 *  - Checkpoints. `stop` ends an epoch: the secondary's words are void, nothing leaves until `commit`, which lets out
 *    what waited from before, in its order. Then the floor is the primary's highest end of that epoch.
 */

export interface Spec {
  /** Offset of the first byte of the payload. */
  readonly at: number;
  /** Offset in the other direction's stream, or null for a segment without ACK. */
  readonly ack: number | null;
  readonly payload: Uint8Array;
  readonly isSyn?: boolean;
  readonly isFin?: boolean;
  readonly isReset?: boolean;
}

export function endOf(spec: Spec): number {
  return spec.at + spec.payload.length + (spec.isFin ? 1 : 0);
}

export class TcpModel<T extends Spec> {
  queue: T[] = [];
  /** Of the epoch that the running checkpoint ends. */
  closed: T[] = [];
  isClosing = false;
  floor: number | null = null;
  /** The first packet in the queue differs, as far as it can be checked in order: a request is due. */
  isRequestDue = false;
  /** Something that the two have said, in this epoch, does not fit: a request is allowed. */
  hasConflict = false;
  /** What lies before it, nobody has seen leave. */
  #from = 0;
  readonly #said = new Map<number, number>();
  /** The primary's words of this epoch, for `hasConflict` only. */
  readonly #sent = new Map<number, number>();
  #sentEnd: number | null = null;
  #sentHighest = -1;
  #saidHighest = -1;
  #saidEnd: number | null = null;
  #saidAck = -1;
  #saidSyn = false;
  #saidSynAck = false;
  #saidReset = false;
  #progressEnd: number | null = null;
  #progressAck = -1;
  #closedEnd: number | null = null;
  #closedAck = -1;

  /** What leaves because the primary has said this. `isLate`: of an epoch whose checkpoint is committed. */
  primary(spec: T, isClosedEpoch = false): T[] {
    this.#notePrimary(spec, isClosedEpoch);
    if (isClosedEpoch) {
      if (this.isClosing) {
        this.closed.push(spec);
        return [];
      }
      this.#adopt();
      return [spec, ...this.#leave()];
    }
    let at = this.queue.length;
    while (at > 0 && goesBefore(spec, this.queue[at - 1]!)) at--;
    this.queue.splice(at, 0, spec);
    return this.#leave();
  }

  /** What leaves because the secondary has said this. */
  secondary(spec: Spec): T[] {
    if (spec.ack !== null) this.#saidAck = Math.max(this.#saidAck, spec.ack);
    if (spec.isReset) this.#saidReset = true;
    else this.#noteSecondary(spec);
    return this.#leave();
  }

  stop(): void {
    this.isClosing = true;
    this.isRequestDue = false;
    this.hasConflict = false;
    this.closed.push(...this.queue);
    this.queue = [];
    this.#said.clear();
    this.#sent.clear();
    this.#sentEnd = this.#saidEnd = null;
    this.#sentHighest = this.#saidHighest = -1;
    this.#saidAck = -1;
    this.#saidSyn = this.#saidSynAck = this.#saidReset = false;
    this.#closedEnd = this.#progressEnd;
    this.#closedAck = this.#progressAck;
  }

  commit(): T[] {
    const left = this.closed;
    this.closed = [];
    this.isClosing = false;
    this.#adopt();
    return [...left, ...this.#leave()];
  }

  #adopt(): void {
    this.floor = this.#closedEnd;
    this.#from = 0;
    this.#saidAck = Math.max(this.#saidAck, this.#closedAck);
  }

  #notePrimary(spec: Spec, isClosedEpoch: boolean): void {
    if (!spec.isReset) {
      const end = endOf(spec);
      this.#progressEnd = this.#progressEnd === null ? end : Math.max(this.#progressEnd, end);
      if (spec.ack !== null) this.#progressAck = Math.max(this.#progressAck, spec.ack);
    }
    if (isClosedEpoch) {
      this.#closedEnd = this.#progressEnd;
      this.#closedAck = this.#progressAck;
      return;
    }
    if (spec.isFin) this.#sentEnd = endOf(spec) - 1;
    for (const [index, byte] of spec.payload.entries()) {
      const at = spec.at + index;
      this.#sent.set(at, byte);
      this.#sentHighest = Math.max(this.#sentHighest, at);
      if (this.#said.has(at) && this.#said.get(at) !== byte) this.hasConflict = true;
    }
    this.#noteEnds();
  }

  #noteSecondary(spec: Spec): void {
    if (spec.isSyn && spec.ack === null) this.#saidSyn = true;
    else if (spec.isSyn) this.#saidSynAck = true;
    for (const [index, byte] of spec.payload.entries()) {
      const at = spec.at + index;
      if (!this.#said.has(at)) this.#said.set(at, byte);
      this.#saidHighest = Math.max(this.#saidHighest, at);
      if (this.#sent.has(at) && this.#sent.get(at) !== byte) this.hasConflict = true;
    }
    if (spec.isFin && endOf(spec) > (this.floor ?? -1)) this.#saidEnd ??= endOf(spec) - 1;
    this.#noteEnds();
  }

  #noteEnds(): void {
    const [sent, said] = [this.#sentEnd, this.#saidEnd];
    if (sent !== null && (this.#saidHighest >= sent || (said !== null && said !== sent)))
      this.hasConflict = true;
    if (said !== null && this.#sentHighest >= said) this.hasConflict = true;
  }

  #leave(): T[] {
    this.isRequestDue = false;
    if (this.isClosing) return [];
    const left: T[] = [];
    for (let first = this.queue[0]; first !== undefined && this.#mayLeave(first); first = this.queue[0]) {
      left.push(first);
      this.queue.shift();
      if (first.isReset || (endOf(first) === first.at && !first.isSyn)) continue;
      if (this.floor === null) this.#from = first.at;
      this.floor = Math.max(this.floor ?? first.at, endOf(first));
      if (this.#saidEnd !== null && this.floor > this.#saidEnd) this.#saidEnd = null;
    }
    return left;
  }

  #mayLeave(spec: Spec): boolean {
    const isAcknowledged = spec.ack === null || spec.ack <= this.#saidAck;
    if (spec.isReset) return this.#saidReset && isAcknowledged;
    const isRepeated = this.floor !== null && endOf(spec) <= this.floor;
    if (spec.isSyn && !isRepeated && !(spec.ack === null ? this.#saidSyn : this.#saidSynAck)) return false;
    return this.#areBytesSaid(spec) && isAcknowledged;
  }

  #areBytesSaid(spec: Spec): boolean {
    if (endOf(spec) === spec.at) return true;
    const floor = this.floor ?? spec.at;
    if (this.floor !== null && spec.at < this.#from) return false;
    if (this.floor !== null && endOf(spec) <= floor) return true;
    if (spec.at > floor) return false;
    const end = spec.at + spec.payload.length;
    for (let at = floor; at < end; at++) {
      if (this.#saidEnd !== null && at >= this.#saidEnd) this.isRequestDue = true;
      const said = this.#said.get(at);
      if (said !== undefined && said !== spec.payload[at - spec.at]) this.isRequestDue = true;
      if (said === undefined || this.isRequestDue) return false;
    }
    if (!spec.isFin) return true;
    if (this.#saidEnd === end) return true;
    if (this.#saidEnd !== null || this.#saidHighest >= end) this.isRequestDue = true;
    return false;
  }
}

function goesBefore(spec: Spec, queued: Spec): boolean {
  if (spec.isSyn || spec.isReset || queued.isSyn || queued.isReset) return false;
  return spec.at < queued.at;
}
