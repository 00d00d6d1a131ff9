/**
 * A stream port's way out: frames are framed into a slab, and one write per burst goes to the socket.
 *
 * Each frame is copied once. That frees the caller's buffer at once (frames are views that are valid during a call),
 * makes one system call of a burst of frames, and gives the hold (hold.ts) its record of what was sent last for
 * nothing: a slab is never rewound, so the last batches stay readable for as long as somebody keeps them.
 *
 * Bounded as a real switch's queue is: when the socket's backlog is full, frames are dropped and counted; the sender is
 * never slowed down, so one client that does not read harms nobody else. Wire format: docs/qemu-behaviour.md 1.1.
 */
const SLAB_BYTES = 64 * 1024;
const LENGTH_BYTES = 4;

/** What an outbox needs of its socket (net.Socket has this shape). */
export interface OutboxStream {
  /** Bytes accepted and not yet with the kernel. */
  readonly writableLength: number;
  /** False when the stream asks to wait; this outbox goes on until its bound. */
  write(bytes: Uint8Array): boolean;
}

export interface OutboxLimits {
  /** Bytes waiting for the socket, beyond which frames are dropped. */
  readonly queueBytes: number;
  /** The record of what was sent: at most this many bytes; 0 switches it off. */
  readonly recordBytes: number;
  /** ... and not older than this, in milliseconds. */
  readonly recordMs: number;
}

interface Batch {
  /** Whole frames, each behind its length. */
  readonly bytes: Uint8Array;
  /** When it was written, on the clock given. */
  readonly at: number;
}

export class Outbox {
  readonly #stream: OutboxStream;
  readonly #limits: OutboxLimits;
  readonly #now: () => number;
  #slab: Uint8Array | null = null;
  /** Start and end of what the slab holds unwritten. */
  #start = 0;
  #end = 0;
  /** The socket's backlog as last seen; it only shrinks between our writes, so this never understates it. */
  #backlog = 0;
  /** The socket has not taken everything: its owner may not be reading, and what it read last is not known. */
  #isBehind = false;
  #record: Batch[] = [];
  #recordBytes = 0;

  /** `now`: a monotonic clock in milliseconds. */
  constructor(stream: OutboxStream, limits: OutboxLimits, now: () => number) {
    this.#stream = stream;
    this.#limits = limits;
    this.#now = now;
  }

  /** Takes a copy of `frame` for the next flush. False: there is no room, the frame is dropped. */
  push(frame: Uint8Array): boolean {
    const need = LENGTH_BYTES + frame.length;
    if (this.#backlog + (this.#end - this.#start) + need > this.#limits.queueBytes) {
      this.#backlog = this.#stream.writableLength;
      if (this.#backlog + (this.#end - this.#start) + need > this.#limits.queueBytes) return false;
    }
    let slab = this.#slab;
    if (!slab || this.#end + need > slab.length) {
      this.flush();
      slab = this.#slab = new Uint8Array(Math.max(SLAB_BYTES, need));
      this.#start = this.#end = 0;
    }
    const at = this.#end;
    slab[at] = frame.length >>> 24;
    slab[at + 1] = (frame.length >>> 16) & 0xff;
    slab[at + 2] = (frame.length >>> 8) & 0xff;
    slab[at + 3] = frame.length & 0xff;
    slab.set(frame, at + LENGTH_BYTES);
    this.#end = at + need;
    return true;
  }

  /** Writes what was pushed. */
  flush(): void {
    const bytes = this.#seal();
    if (!bytes) return;
    this.#isBehind = !this.#stream.write(bytes);
    this.#backlog = this.#stream.writableLength;
  }

  /** The socket's backlog is empty (its `drain` event). */
  drained(): void {
    this.#isBehind = false;
  }

  /**
   * The frames sent last, oldest first: the peer may have died with them unread. Views on slabs, which are never
   * overwritten. Their age does not count while the socket is behind: the peer had stopped reading before it died.
   */
  recent(): Uint8Array[] {
    this.#seal();
    this.#trim(this.#now());
    const frames: Uint8Array[] = [];
    for (const { bytes } of this.#record) {
      for (let at = 0; at < bytes.length;) {
        const length = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
        frames.push(bytes.subarray(at + LENGTH_BYTES, at + LENGTH_BYTES + length));
        at += LENGTH_BYTES + length;
      }
    }
    return frames;
  }

  /** Ends the batch being filled, and remembers it. */
  #seal(): Uint8Array | null {
    if (!this.#slab || this.#start === this.#end) return null;
    const bytes = this.#slab.subarray(this.#start, this.#end);
    this.#start = this.#end;
    if (this.#limits.recordBytes > 0) {
      const at = this.#now();
      this.#record.push({ bytes, at });
      this.#recordBytes += bytes.length;
      this.#trim(at);
    }
    return bytes;
  }

  #trim(now: number): void {
    while (this.#record.length > 0) {
      const oldest = this.#record[0]!;
      const isOld = !this.#isBehind && now - oldest.at > this.#limits.recordMs;
      if (!isOld && this.#recordBytes <= this.#limits.recordBytes) return;
      this.#record.shift();
      this.#recordBytes -= oldest.bytes.length;
    }
  }
}
