/**
 * Capture and load of a guest's RAM against a baseline: the state that was captured or loaded last, in memory of its own,
 * which takes as much as the guest has used. Device state and the ids in it are the engine's.
 *
 * A capture's baseline is made of the very bytes that are sent, so the guest may run meanwhile: what it writes then is
 * found by the next one. All checks of a load (`check`) come before its first change (`load`); the guest stands still.
 */
import { randomBytes } from 'node:crypto';
import { ColoError, ProtocolError } from '../../base/errors.ts';
import { adviseHuge } from './memory-calls.ts';
import { PageScanner } from './page-scanner.ts';
import { allocateRamChanges, parseRamChanges } from './ram-codec.ts';
import type { RamChanges } from './ram-codec.ts';
import { RamFile } from './ram-file.ts';

export interface RamCapture {
  /** In the encoding of ram-codec.ts, in a buffer of its own. */
  readonly ram: Uint8Array<ArrayBuffer>;
  readonly pages: number;
  readonly id: bigint;
}

export class RamSnapshots {
  readonly #ram: RamFile;
  readonly #base: RamFile;
  readonly #scanner: PageScanner;
  /** The baseline's id, or null when there is none. */
  #id: bigint | null = null;
  #isBusy = false;

  private constructor(ram: RamFile, base: RamFile, scanner: PageScanner) {
    this.#ram = ram;
    this.#base = base;
    this.#scanner = scanner;
  }

  /** `ram` stays its owner's, and open until close() has ended. Throws ColoError when there is no memory or no thread. */
  static async open(ram: RamFile, threads?: number): Promise<RamSnapshots> {
    const base = RamFile.create(`${ram.name}-baseline`, ram.byteLength);
    try {
      return new RamSnapshots(ram, base, await PageScanner.open(ram, base, threads));
    } catch (error) {
      base.close();
      throw error;
    }
  }

  get hasBaseline(): boolean {
    return this.#id !== null;
  }

  /** Throws ProtocolError when there is nothing to compare with and `full` is false. */
  async capture({ full }: { full: boolean }): Promise<RamCapture> {
    return await this.#alone(async () => {
      const parent = this.#id;
      if (!full && parent === null) {
        throw new ProtocolError('capture: nothing was captured or loaded yet; capture in full first');
      }
      if (full) this.#forget();
      const indexes = await this.#scanner.findChanges();
      const pages = indexes.length;
      const id = randomBytes(8).readBigUInt64LE();
      const header = { full, pages, ramBytes: this.#ram.byteLength, id, parent: full ? 0n : parent! };
      const { bytes, data } = allocateRamChanges(header, indexes);
      adviseHuge(bytes);
      // Until it is complete the baseline is no state at all.
      this.#id = null;
      await this.#scanner.copyOut(pages, data);
      this.#id = id;
      return { ram: bytes, pages, id };
    });
  }

  /** Parses and checks snapshots that are to be loaded one after the other. Throws ProtocolError. */
  check(snapshots: readonly Uint8Array[]): RamChanges[] {
    let id = this.#id;
    return snapshots.map((bytes) => {
      const changes = parseRamChanges(bytes, this.#ram.byteLength);
      if (!changes.full && changes.parent !== id) {
        throw new ProtocolError(
          'snapshot: builds on a state that this machine does not hold; a full one is needed',
        );
      }
      id = changes.id;
      return changes;
    });
  }

  /** What the guest did since the baseline is undone, and the changes (from `check`) applied in order. */
  async load(changes: readonly RamChanges[]): Promise<void> {
    if (changes.length === 0) return;
    await this.#alone(async () => {
      this.#id = null;
      for (const { full, indexes, data } of changes) {
        if (full) this.#forget();
        await this.#scanner.copyIn(indexes, data);
      }
      // One pass both undoes and applies. Pages that are equal already are not written, so nobody has to look at them.
      const { length } = await this.#scanner.findChanges();
      await this.#scanner.copyBack(length);
      this.#id = changes.at(-1)!.id;
    });
  }

  /** Ends the threads and frees the baseline. Idempotent. */
  async close(): Promise<void> {
    this.#id = null;
    await this.#scanner.close();
    this.#base.close();
  }

  #forget(): void {
    this.#id = null;
    this.#scanner.clearBaseline();
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isBusy) throw new ColoError('guest RAM: a capture or load is under way');
    this.#isBusy = true;
    try {
      return await work();
    } finally {
      this.#isBusy = false;
    }
  }
}
