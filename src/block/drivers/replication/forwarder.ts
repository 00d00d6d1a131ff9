/**
 * The primary's half of replication: sends the guest's writes on to the other host. The guest never learns of a
 * failure there; the first one is remembered (`error`), and from then on nothing is sent any more: the other disk
 * lacks a write, so only a new resync can make it whole, and a dead peer must not slow the guest down. Protection is
 * over then (checkpoint/disk-watch.ts).
 *
 * The gate: between the capture of a checkpoint and the news that the secondary holds it, writes of the next epoch
 * wait here, because they must not reach the secondary disk before its overlays were emptied. The guest's write
 * simply takes longer; no data is copied.
 *
 * Parting: at the first failure, or when it is told to stop, the two disks go their own ways. `onParted` hears of it at
 * that moment, before the guest's write goes on, with what the other disk may lack by then (unsettled.ts). What is not
 * sent any more ends later, in the node above, and is for that one to record.
 */
import { Gate } from '../../../base/async.ts';
import { IoError, messageOf } from '../../../base/errors.ts';
import type { WriteFlags } from '../../driver.ts';
import type { BlockNode } from '../../node.ts';
import { Unsettled } from './unsettled.ts';

/** More than a guest keeps in flight; beyond it something is wrong and replication is given up, not the guest. */
const MAX_WAITING_WRITES = 16_384;
const MAX_WAITING_BYTES = 1024 * 1024 * 1024;

export type ForwardedWrite = (file: BlockNode) => Promise<void>;

/** What has been sent to the other disk, and what is on its way. */
export interface ForwardedTraffic {
  readonly writes: number;
  readonly bytes: number;
  readonly inFlight: number;
  /** At the gate. */
  readonly waiting: number;
}

export class Forwarder {
  readonly #file: BlockNode;
  readonly #gate = new Gate();
  readonly #onParted: (unsettled: Unsettled) => void;
  /** Null before the beginning and after the parting. */
  #unsettled: Unsettled | null = null;
  #stopped = false;
  #error: Error | null = null;
  #waitingWrites = 0;
  #waitingBytes = 0;
  #writes = 0;
  #bytes = 0;
  #inFlight = 0;

  constructor(file: BlockNode, onParted: (unsettled: Unsettled) => void = () => undefined) {
    this.#file = file;
    this.#onParted = onParted;
  }

  /** The two disks are equal now. */
  start(): void {
    if (!this.#stopped) this.#unsettled = new Unsettled(this.#file.lengthBytes);
  }

  /** Why the other disk is no longer a copy, or null. */
  get error(): Error | null {
    return this.#error;
  }

  get waitingWrites(): number {
    return this.#waitingWrites;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  get traffic(): ForwardedTraffic {
    const [writes, bytes, inFlight] = [this.#writes, this.#bytes, this.#inFlight];
    return { writes, bytes, inFlight, waiting: this.#waitingWrites };
  }

  /** Writes that begin from here on belong to the next epoch and wait. */
  closeGate(): void {
    if (!this.#stopped) this.#gate.close();
  }

  openGate(): void {
    this.#gate.open();
  }

  clearError(): void {
    this.#error = null;
  }

  /** Waiting writes fail with EIO, and so does everything that comes later. */
  stop(): void {
    this.#stopped = true;
    this.#part();
    this.#gate.open();
  }

  /** The other disk is not to be counted on any more; the reason is remembered unless there is one. */
  giveUp(reason: IoError): void {
    if (this.#unsettled) this.#latch(reason);
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    const { byteLength } = source;
    await this.#forward(offset, byteLength, byteLength, (file) => file.write(offset, source, flags));
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    // No data is held, so it counts as a write of nothing.
    await this.#forward(offset, length, 0, (file) => file.writeZeroes(offset, length, flags));
  }

  /** Makes what was forwarded durable on the other side; it need not wait at the gate. */
  async flush(): Promise<void> {
    if (this.#error !== null || this.#stopped) return;
    const ended = this.#unsettled?.flushBegins();
    try {
      await this.#file.flush();
      ended?.(true);
    } catch (error) {
      this.#latch(error);
    }
  }

  async #forward(offset: number, length: number, held: number, act: ForwardedWrite): Promise<void> {
    if (!this.#gate.isOpen && this.#error === null) await this.#wait(held);
    if (this.#stopped) throw new IoError('EIO', `Replication to '${this.#file.nodeName}' has ended`);
    if (this.#error !== null) return;
    const unsettled = this.#unsettled;
    this.#inFlight++;
    try {
      await act(this.#file);
      unsettled?.ended(offset, length);
      this.#writes++;
      this.#bytes += held;
    } catch (error) {
      this.#latch(error);
    } finally {
      this.#inFlight--;
    }
  }

  async #wait(bytes: number): Promise<void> {
    if (this.#waitingWrites >= MAX_WAITING_WRITES || this.#waitingBytes + bytes > MAX_WAITING_BYTES) {
      this.#latch(new IoError('EIO', 'Too many writes wait for the checkpoint to be confirmed'));
      return;
    }
    this.#waitingWrites++;
    this.#waitingBytes += bytes;
    try {
      while (!this.#gate.isOpen && this.#error === null) await this.#gate.pass();
    } finally {
      this.#waitingWrites--;
      this.#waitingBytes -= bytes;
    }
  }

  #latch(error: unknown): void {
    this.#error ??= error instanceof Error ? error : new IoError('EIO', messageOf(error));
    this.#part();
    // Nobody is held back for a replica that is lost.
    this.#gate.open();
  }

  #part(): void {
    const unsettled = this.#unsettled;
    this.#unsettled = null;
    if (unsettled) this.#onParted(unsettled);
  }
}
