/**
 * Copies the content of one node to another, for tools. Only what the source has as data is read, several pieces at a
 * time; they are written in order unless `outOfOrder` says that it does not matter, so that the same source gives the
 * same target. Runs of zeros in what was read stay holes. Rules: QEMU docs/tools/qemu-img.rst, convert.
 */
import { ColoError, ERRNO_TEXT, errnoOf, messageOf } from '../base/errors.ts';
import type { BlockExtent, WriteFlags } from './driver.ts';
import type { BlockNode } from './node.ts';

const PIECE = 2 ** 21;
/** Block status is asked for this much at once. */
const WINDOW = 2 ** 28;
const SECTOR = 512;
/** Zeros are looked for in blocks of this size. */
const ZERO_BLOCK = 4096;
const ZEROS = Buffer.alloc(PIECE);

export interface CopyOptions {
  /** What is not written reads as zeros in the target. Else zeros are written too. */
  readonly targetIsZero: boolean;
  /** What is not allocated in the source itself is left out: the target's backing file has it, up to this length. */
  readonly sharedBackingBytes?: number;
  /** Zeros of at least this length (a multiple of 512) are left out; 0: everything is written. Default 4096. */
  readonly sparseBytes?: number;
  /** Pieces in flight. Default 8. */
  readonly parallel?: number;
  readonly outOfOrder?: boolean;
  /** At most this many bytes of the source in a second. */
  readonly bytesPerSecond?: number | undefined;
  /** Called for each sector that cannot be read, and then it is zeros. Missing: such a read ends the copy. */
  readonly onUnreadable?: (offset: number, error: unknown) => void;
  readonly onProgress?: (doneBytes: number) => void;
  readonly writeFlags?: WriteFlags;
  /** Data is written by this, in whole pieces of this many bytes (compressed clusters), zeros of a piece left out. */
  readonly clusters?: {
    readonly bytes: number;
    write(offset: number, cluster: Uint8Array): Promise<void>;
  };
}

/** Copies `lengthBytes` of the source (behind its end: zeros). Throws ColoError, `error while reading at byte…`. */
export async function copyImage(
  from: BlockNode,
  to: BlockNode,
  lengthBytes: number,
  options: CopyOptions,
): Promise<void> {
  const copy = new Copy(from, to, lengthBytes, options);
  const workers = Array.from({ length: options.parallel ?? 8 }, () => copy.work());
  const ended = await Promise.allSettled(workers);
  for (const end of ended) if (end.status === 'rejected') throw end.reason;
}

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly isZero: boolean;
  /** Ends when the piece before has been written. */
  readonly turn: Promise<void>;
  readonly pass: () => void;
}

class Copy {
  readonly #from: BlockNode;
  readonly #to: BlockNode;
  readonly #end: number;
  readonly #options: CopyOptions;
  readonly #sparse: number;
  readonly #pieceBytes: number;
  readonly #startedAt = performance.now();
  #extents: BlockExtent[] = [];
  #asked = 0;
  /** Up to here pieces have been given out. */
  #taken = 0;
  #done = 0;
  #read = 0;
  #lastTaken: Promise<unknown> = Promise.resolve();
  #lastTurn: Promise<void> = Promise.resolve();
  #failed = false;

  constructor(from: BlockNode, to: BlockNode, lengthBytes: number, options: CopyOptions) {
    this.#from = from;
    this.#to = to;
    this.#end = lengthBytes;
    this.#options = options;
    this.#sparse = options.sparseBytes ?? ZERO_BLOCK;
    const cluster = options.clusters?.bytes ?? 1;
    this.#pieceBytes = cluster > PIECE ? cluster : Math.floor(PIECE / cluster) * cluster;
  }

  /** Takes piece after piece until there is none. */
  async work(): Promise<void> {
    const buffer = Buffer.allocUnsafe(Math.min(this.#pieceBytes, Math.max(1, this.#end)));
    for (;;) {
      const piece = await this.#take();
      if (!piece) return;
      try {
        await this.#copy(piece, buffer.subarray(0, piece.isZero ? 0 : piece.length));
        this.#done += piece.length;
        this.#options.onProgress?.(this.#done);
      } catch (error) {
        this.#failed = true;
        throw error;
      } finally {
        piece.pass();
      }
    }
  }

  async #copy(piece: Piece, bytes: Buffer): Promise<void> {
    if (!piece.isZero) {
      await this.#limitRate(piece.length);
      await this.#readPiece(piece.offset, bytes);
    }
    if (!this.#options.outOfOrder) await piece.turn;
    if (this.#failed) return;
    try {
      if (piece.isZero) await this.#writeZeros(piece.offset, piece.length);
      else if (this.#options.clusters) await this.#writeClusters(piece.offset, bytes);
      else await this.#writeData(piece.offset, bytes);
    } catch (cause) {
      throw failure('writing', piece.offset, cause);
    }
  }

  /** The next piece; one caller at a time, as asking for the block status may take a while. */
  #take(): Promise<Piece | null> {
    const taken = this.#lastTaken.then(async () => {
      for (;;) {
        if (this.#failed || this.#taken >= this.#end) return null;
        const extent = await this.#extent();
        const piece = this.#cut(extent);
        if (piece) return piece;
      }
    });
    this.#lastTaken = taken.catch(() => (this.#failed = true));
    return taken;
  }

  /** The extent at #taken. */
  async #extent(): Promise<BlockExtent> {
    for (;;) {
      const [extent] = this.#extents;
      if (extent && this.#taken < extent.offset + extent.length) return extent;
      if (extent) {
        this.#extents.shift();
        continue;
      }
      const at = this.#taken;
      const length = Math.min(WINDOW, this.#end - at);
      const there = Math.max(0, Math.min(length, this.#from.lengthBytes - at));
      try {
        this.#extents = there > 0 ? joined(await this.#from.blockStatus(at, there)) : [];
      } catch (cause) {
        throw failure('reading block status', at, cause);
      }
      if (there < length) {
        const offset = at + there;
        this.#extents.push({ offset, length: length - there, zero: true, data: false, allocated: true });
      }
    }
  }

  /** Takes what is left of the extent, or a piece of it; null: nothing of it has to be written. */
  #cut(extent: BlockExtent): Piece | null {
    const offset = this.#taken;
    const shared = this.#options.sharedBackingBytes ?? -1;
    const cluster = this.#options.clusters?.bytes ?? 1;
    const backingEnd = this.#from.backing?.lengthBytes ?? 0;
    const isLeftOut = shared >= 0 && !extent.allocated && offset < backingEnd;
    let until = extent.offset + extent.length;
    if (isLeftOut) until = Math.min(until, backingEnd);
    // Whole clusters only, where there are such: what begins in the middle of one goes with it.
    const whole = until < this.#end ? until - (until % cluster) : until;
    const isZero = extent.zero && this.#sparse > 0 && whole > offset;
    const isThere = isZero && (this.#options.targetIsZero || (shared >= 0 && offset >= shared));
    if (isThere || (isLeftOut && whole > offset)) {
      this.#done += whole - offset;
      this.#taken = whole;
      return null;
    }
    const pieceEnd = offset + this.#pieceBytes - (offset % this.#pieceBytes);
    const end = isZero ? whole : Math.min(pieceEnd, cluster > 1 ? this.#end : until);
    this.#taken = end;
    const turn = this.#lastTurn;
    let pass: () => void = () => undefined;
    this.#lastTurn = new Promise((resolve) => (pass = resolve));
    return { offset, length: end - offset, isZero, turn, pass };
  }

  async #limitRate(length: number): Promise<void> {
    const rate = this.#options.bytesPerSecond;
    if (rate === undefined) return;
    const waitMs = this.#startedAt + (this.#read / rate) * 1000 - performance.now();
    this.#read += length;
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
  }

  async #readPiece(offset: number, bytes: Buffer): Promise<void> {
    const there = Math.max(0, Math.min(bytes.byteLength, this.#from.lengthBytes - offset));
    if (there < bytes.byteLength) bytes.fill(0, there);
    try {
      if (there > 0) await this.#from.read(offset, bytes.subarray(0, there));
    } catch (cause) {
      if (!this.#options.onUnreadable) throw failure('reading', offset, cause);
      await this.#salvage(offset, bytes.subarray(0, there), this.#options.onUnreadable);
    }
  }

  async #salvage(
    offset: number,
    bytes: Buffer,
    onUnreadable: (at: number, error: unknown) => void,
  ): Promise<void> {
    for (let at = 0; at < bytes.byteLength; at += SECTOR) {
      const sector = bytes.subarray(at, at + SECTOR);
      await this.#from.read(offset + at, sector).catch((error: unknown) => {
        sector.fill(0);
        onUnreadable(offset + at, error);
      });
    }
  }

  async #writeZeros(offset: number, length: number): Promise<void> {
    await this.#to.writeZeroes(offset, length, this.#options.writeFlags);
  }

  /** Writes runs of data; runs of zeros that are long enough are holes. */
  async #writeData(offset: number, bytes: Buffer): Promise<void> {
    const { writeFlags, targetIsZero } = this.#options;
    if (this.#sparse === 0) return this.#to.write(offset, bytes, writeFlags);
    const longEnough = Math.min(this.#sparse, bytes.byteLength);
    const block = this.#sparse < ZERO_BLOCK ? SECTOR : ZERO_BLOCK;
    let dataFrom = 0;
    for (let at = 0; at < bytes.byteLength;) {
      if (!isZeroAt(bytes, at, block)) {
        at += block;
        continue;
      }
      let end = at + block;
      while (end < bytes.byteLength && isZeroAt(bytes, end, block)) end += block;
      end = Math.min(end, bytes.byteLength);
      if (end - at >= longEnough) {
        if (at > dataFrom) await this.#to.write(offset + dataFrom, bytes.subarray(dataFrom, at), writeFlags);
        if (!targetIsZero) await this.#writeZeros(offset + at, end - at);
        dataFrom = end;
      }
      at = end;
    }
    if (dataFrom < bytes.byteLength)
      await this.#to.write(offset + dataFrom, bytes.subarray(dataFrom), writeFlags);
    return undefined;
  }

  /** Writes cluster by cluster, all of a piece at once: compressing is work for other threads. */
  async #writeClusters(offset: number, bytes: Buffer): Promise<void> {
    const { clusters, targetIsZero } = this.#options;
    if (!clusters) return;
    const jobs: Promise<void>[] = [];
    for (let at = 0; at < bytes.byteLength; at += clusters.bytes) {
      const cluster = bytes.subarray(at, at + clusters.bytes);
      if (this.#sparse > 0 && isAllZero(cluster)) {
        if (!targetIsZero) jobs.push(this.#writeZeros(offset + at, cluster.byteLength));
      } else jobs.push(clusters.write(offset + at, cluster));
    }
    for (const end of await Promise.allSettled(jobs)) if (end.status === 'rejected') throw end.reason;
  }
}

/** Neighbours of one kind as one. */
function joined(extents: readonly BlockExtent[]): BlockExtent[] {
  const out: BlockExtent[] = [];
  for (const extent of extents) {
    const last = out.at(-1);
    if (last?.zero === extent.zero && last.allocated === extent.allocated)
      out[out.length - 1] = { ...last, length: last.length + extent.length };
    else out.push(extent);
  }
  return out;
}

function isZeroAt(bytes: Buffer, at: number, block: number): boolean {
  const length = Math.min(block, bytes.byteLength - at);
  return bytes.compare(ZEROS, 0, length, at, at + length) === 0;
}

function isAllZero(bytes: Buffer): boolean {
  return bytes.compare(ZEROS, 0, bytes.byteLength) === 0;
}

function failure(verb: string, offset: number, cause: unknown): ColoError {
  const errno = errnoOf(cause);
  const text = errno === 'EIO' ? messageOf(cause) : ERRNO_TEXT[errno];
  return new ColoError(`error while ${verb} at byte ${offset}: ${text}`, { cause });
}
