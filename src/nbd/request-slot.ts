/**
 * One of a client's places for a request in flight, reused for its whole life. The cookie on the wire is the slot's
 * generation (upper half) and its index (lower half), so that a reply finds its slot without a map, and a reply to an
 * earlier user of the slot is told apart. Knows how each kind of reply answers its request; moves no bytes.
 */
import { IoError, ProtocolError } from '../base/errors.ts';
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_READ, nameOfCommand } from './constants.ts';
import { errnoOfWire, textOfWire } from './errors.ts';
import { ReadCoverage } from './read-coverage.ts';
import type { StatusRun } from './wire.ts';

const NO_RUNS: readonly StatusRun[] = [];

export class RequestSlot {
  readonly index: number;
  generation = 0;
  isActive = false;
  /** True when the kernel has taken the request, and all that left together with it: the reply may come before. */
  isSent = false;
  type = 0;
  offset = 0;
  length = 0;
  /** READ: where the data goes. */
  target: Uint8Array | null = null;
  /** Position in the order of sending. */
  order = 0;
  /** When this request last got on, by the monotonic clock, in milliseconds. */
  progressAt = 0;
  resolve: (runs: readonly StatusRun[]) => void = () => undefined;
  reject: (error: Error) => void = () => undefined;
  readonly #coverage = new ReadCoverage();
  #error: IoError | null = null;
  #runs: readonly StatusRun[] = NO_RUNS;

  constructor(index: number) {
    this.index = index;
  }

  /** Takes a new request in. `now` in milliseconds. */
  begin(type: number, offset: number, length: number, target: Uint8Array | null, now: number): void {
    this.generation = (this.generation + 1) >>> 0;
    this.isActive = true;
    this.isSent = false;
    this.type = type;
    this.offset = offset;
    this.length = length;
    this.target = target;
    this.progressAt = now;
    this.#error = null;
    this.#runs = NO_RUNS;
    this.#coverage.reset(target ? length : 0);
  }

  /** A simple reply: the memory for its data, or null. Throws ProtocolError when it is not allowed here. */
  simpleReply(error: number, structured: boolean): Uint8Array | null {
    if (error !== 0) {
      this.#fail(error, '');
      return null;
    }
    if (this.type === NBD_CMD_BLOCK_STATUS || (structured && this.type === NBD_CMD_READ)) {
      throw new ProtocolError(
        `A simple reply came to ${nameOfCommand(this.type)}, a structured one was agreed on`,
      );
    }
    if (this.target && this.length > 0) this.#coverage.add(0, this.length);
    return this.target;
  }

  /** The memory for `length` bytes of data at `offset` of the export. Throws ProtocolError. */
  dataChunk(offset: number, length: number): Uint8Array {
    const at = offset - this.offset;
    this.#coverage.add(at, length);
    return this.#readTarget().subarray(at, at + length);
  }

  holeChunk(offset: number, length: number): void {
    const at = offset - this.offset;
    this.#coverage.add(at, length);
    this.#readTarget().fill(0, at, at + length);
  }

  /** Runs are cut to the request's length: servers may tell more about the last one. Throws ProtocolError. */
  statusChunk(bytes: Buffer): void {
    if (this.type !== NBD_CMD_BLOCK_STATUS || this.#runs.length > 0) {
      throw new ProtocolError(`Unexpected block status in the reply to ${nameOfCommand(this.type)}`);
    }
    const runs: StatusRun[] = [];
    let left = this.length;
    for (let at = 0; at < bytes.length; at += 8) {
      const length = bytes.readUInt32BE(at);
      if (length === 0 || left === 0) {
        throw new ProtocolError('Block status with an empty extent or one beyond the request');
      }
      const inside = Math.min(length, left);
      runs.push({ length: inside, flags: bytes.readUInt32BE(at + 4) });
      left -= inside;
    }
    this.#runs = runs;
  }

  errorChunk(error: number, message: string): void {
    if (error === 0) throw new ProtocolError('Server sent an error chunk without an error');
    this.#fail(error, message);
  }

  /**
   * The reply has ended: settles the request and frees the slot. Throws ProtocolError when the reply was not whole
   * (the slot then stays active, for the connection to fail it).
   */
  finish(): void {
    const error = this.#error;
    if (!error && this.target && !this.#coverage.isComplete) {
      throw new ProtocolError(`Reply to a read at ${this.offset} ended before all ${this.length} bytes came`);
    }
    if (!error && this.type === NBD_CMD_BLOCK_STATUS && this.#runs.length === 0) {
      this.#error = new IoError('EIO', 'Server did not reply with any status extents');
    }
    this.isActive = false;
    this.target = null;
    if (this.#error) this.reject(this.#error);
    else this.resolve(this.#runs);
    this.#runs = NO_RUNS;
  }

  /** Ends the request without a reply. */
  abandon(error: Error): void {
    this.isActive = false;
    this.target = null;
    this.reject(error);
  }

  #readTarget(): Uint8Array {
    if (!this.target) throw new ProtocolError(`Data in the reply to ${nameOfCommand(this.type)}`);
    return this.target;
  }

  /** The first error of a reply counts. */
  #fail(error: number, message: string): void {
    const said = message === '' ? '' : ` (server reported: ${message})`;
    this.#error ??= new IoError(
      errnoOfWire(error),
      `NBD ${nameOfCommand(this.type)} at ${this.offset}, ${this.length} bytes: ${textOfWire(error)}${said}`,
    );
  }
}
