/**
 * The primary's half of replication: sends the guest's writes on to the other host. The guest never learns of a
 * failure there; the first one is remembered (`error`), and from then on nothing is sent any more: the other disk
 * lacks a write, so only a new resync can make it whole, and a dead peer must not slow the guest down.
 *
 * The gate: between the capture of a checkpoint and the news that the secondary holds it, writes of the next epoch
 * wait here, because they must not reach the secondary disk before its overlays were emptied. The guest's write
 * simply takes longer; no data is copied.
 */
import { Gate } from '../../../base/async.ts';
import { IoError, messageOf } from '../../../base/errors.ts';
import type { WriteFlags } from '../../driver.ts';
import type { BlockNode } from '../../node.ts';

/** More than a guest keeps in flight; beyond it something is wrong and replication is given up, not the guest. */
const MAX_WAITING_WRITES = 16_384;
const MAX_WAITING_BYTES = 1024 * 1024 * 1024;

export type ForwardedWrite = (file: BlockNode) => Promise<void>;

export class Forwarder {
  readonly #file: BlockNode;
  readonly #gate = new Gate();
  #stopped = false;
  #error: Error | null = null;
  #waitingWrites = 0;
  #waitingBytes = 0;

  constructor(file: BlockNode) {
    this.#file = file;
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
    this.#gate.open();
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    await this.#forward(source.byteLength, (file) => file.write(offset, source, flags));
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    // No data is held, so it counts as a write of nothing.
    await this.#forward(0, (file) => file.writeZeroes(offset, length, flags));
  }

  /** Makes what was forwarded durable on the other side; it need not wait at the gate. */
  async flush(): Promise<void> {
    if (this.#error !== null || this.#stopped) return;
    try {
      await this.#file.flush();
    } catch (error) {
      this.#latch(error);
    }
  }

  async #forward(bytes: number, act: ForwardedWrite): Promise<void> {
    if (!this.#gate.isOpen && this.#error === null) await this.#wait(bytes);
    if (this.#stopped) throw new IoError('EIO', `Replication to '${this.#file.nodeName}' has ended`);
    if (this.#error !== null) return;
    try {
      await act(this.#file);
    } catch (error) {
      this.#latch(error);
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
    // Nobody is held back for a replica that is lost.
    this.#gate.open();
  }
}
