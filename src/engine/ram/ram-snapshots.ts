/**
 * Capture and load of a guest's RAM against a baseline: the state that was captured or loaded last, in memory of its own,
 * which takes as much as the guest has used. Device state and the ids in it are the engine's.
 *
 * A capture's baseline is made of the very bytes that are sent, so the guest may run meanwhile: what it writes then is
 * found by the next one. All checks of a load (`check`) come before its first change (`load`); the guest stands still.
 */
import { randomBytes } from 'node:crypto';
import { ColoError, messageOf, ProtocolError } from '../../base/errors.ts';
import { adviseHuge } from './memory-calls.ts';
import { PageScanner } from './page-scanner.ts';
import { allocateRamChanges, PAGE_BYTES, parseRamChanges } from './ram-codec.ts';
import type { RamChanges, RamHeader } from './ram-codec.ts';
import { RamFile } from './ram-file.ts';
import type { WriteTracker } from './soft-dirty.ts';
import { STRIP_PAGES } from './strips.ts';

export interface RamCapture {
  /** In the encoding of ram-codec.ts, in a buffer of its own. */
  readonly ram: Uint8Array<ArrayBuffer>;
  readonly pages: number;
  readonly id: bigint;
  /** The bound on pages left some of the memory unseen: captures go on there until one has none. */
  readonly more: boolean;
}

export interface RamCaptureOptions {
  /** Everything that is not zero, not only what changed since the baseline. */
  readonly full: boolean;
  /**
   * About so many pages at most, but no fewer than a strip has (256), so that no buffer need hold a large guest. The
   * state that is described then is one between the baseline and the guest's: for the rounds before a guest is stopped.
   */
  readonly maxPages?: number;
  /** The guest stands still: what the kernel knows of written pages (`track`) spares the comparison of the others. */
  readonly isStill?: boolean;
}

export class RamSnapshots {
  readonly #ram: RamFile;
  readonly #base: RamFile;
  readonly #scanner: PageScanner;
  /** The baseline's id, or null when there is none. */
  #id: bigint | null = null;
  /** Where a capture with a bound goes on; 0 when it is the start of a round. */
  #nextStrip = 0;
  #isBusy = false;
  #tracker: WriteTracker | null = null;
  /** Every page that differs from the baseline has been written since the tracker was cleared, or is marked. */
  #isTracked = false;

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

  /**
   * What changed since the baseline, which the result becomes. Throws ProtocolError when there is none and `full` is
   * false, ColoError when the changes do not fit one buffer (4 GiB with Node.js 20).
   */
  async capture({ full, maxPages, isStill = false }: RamCaptureOptions): Promise<RamCapture> {
    return await this.#alone(async () => {
      const parent = this.#id;
      if (!full && parent === null) {
        throw new ProtocolError('capture: nothing was captured or loaded yet; capture in full first');
      }
      if (full) this.#forget();
      let indexes: Uint32Array;
      let isTracked = false;
      if (maxPages !== undefined) {
        this.#isTracked = false;
        indexes = await this.#findSome(full, maxPages);
      } else [indexes, isTracked] = await this.#findAll(isStill);
      const pages = indexes.length;
      const id = randomBytes(8).readBigUInt64LE();
      const header = { full, pages, ramBytes: this.#ram.byteLength, id, parent: full ? 0n : parent! };
      const { bytes, data } = allocate(header, indexes);
      // Until it is complete the baseline is no state at all.
      this.#id = null;
      await this.#scanner.copyOut(pages, data);
      this.#id = id;
      this.#isTracked = isTracked;
      return { ram: bytes, pages, id, more: this.#nextStrip > 0 };
    });
  }

  /** Also begins to track anew; the second of the pair says whether that is so, once what was found is in the baseline. */
  async #findAll(isStill: boolean): Promise<[Uint32Array, boolean]> {
    this.#nextStrip = 0;
    const entries = this.#isTracked && isStill ? (this.#tracker?.entries ?? null) : null;
    this.#isTracked = false;
    // A guest that runs writes between any two steps: what it writes after the clearing counts for the next time.
    const wasCleared = entries === null && this.#clearTracker();
    const found = await this.#scanner.findChanges(0, this.#scanner.stripCount, 0, entries);
    return [found, entries === null ? wasCleared : this.#clearTracker()];
  }

  #clearTracker(): boolean {
    try {
      this.#tracker?.clear();
      return this.#tracker !== null;
    } catch {
      // The process is gone. Comparison needs nobody.
      this.track(null);
      return false;
    }
  }

  /** Goes on where the capture before it has stopped. */
  async #findSome(full: boolean, maxPages: number): Promise<Uint32Array> {
    const { stripCount } = this.#scanner;
    let strip = full ? 0 : this.#nextStrip;
    let found: Uint32Array = new Uint32Array(0);
    for (let room = Math.max(maxPages, STRIP_PAGES); strip < stripCount && room >= STRIP_PAGES;) {
      const to = Math.min(stripCount, strip + Math.floor(room / STRIP_PAGES));
      const before = found.length;
      found = await this.#scanner.findChanges(strip, to, before);
      room -= found.length - before;
      strip = to;
    }
    this.#nextStrip = strip < stripCount ? strip : 0;
    return found;
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

  /**
   * The changes (from `check`) become the baseline, and the guest's RAM stays as it is: a later load brings it there.
   * For a first state in many snapshots, which need not be kept until the last one is there.
   */
  async stage(changes: readonly RamChanges[]): Promise<void> {
    await this.#alone(() => this.#apply(changes));
  }

  /**
   * What the guest did since the baseline is undone, and the changes (from `check`) applied in order. From then on
   * `successor`, if given, says what is written instead of the tracker until now: the process that is to run the guest.
   * It must not have run yet, nor have been given its device state, which may write too.
   */
  async load(changes: readonly RamChanges[], successor?: WriteTracker | null): Promise<void> {
    if (changes.length === 0) return;
    await this.#alone(async () => {
      await this.#apply(changes);
      const id = this.#id;
      this.#id = null;
      // One pass both undoes and applies. Pages that are equal already are not written, so nobody has to look at them.
      const [{ length }, isTracked] = await this.#findAll(true);
      await this.#scanner.copyBack(length);
      this.#id = id;
      this.#isTracked = isTracked;
      if (successor === undefined) return;
      this.track(successor);
      this.#isTracked = this.#clearTracker();
    });
  }

  async #apply(changes: readonly RamChanges[]): Promise<void> {
    this.#nextStrip = 0;
    for (const { full, id, indexes, data } of changes) {
      this.#id = null;
      if (full) this.#forget();
      await this.#scanner.copyIn(indexes, data);
      this.#id = id;
    }
  }

  /**
   * From now on `tracker` (this becomes its owner) says what was written, and no longer the one before it; null: nobody.
   * It counts from the next capture or load on, which compares everything still.
   */
  track(tracker: WriteTracker | null): void {
    this.#tracker?.close();
    this.#tracker = tracker;
    this.#isTracked = false;
  }

  /** This process itself has written there, which no tracker sees. Said afterwards, so that no capture can miss it. */
  wrote(offset: number, byteLength: number): void {
    const last = Math.floor((offset + byteLength - 1) / PAGE_BYTES);
    for (let page = Math.floor(offset / PAGE_BYTES); page <= last; page++) this.#scanner.markWritten(page);
  }

  /** Ends the threads and frees the baseline. Idempotent. */
  async close(): Promise<void> {
    this.#id = null;
    await this.#scanner.close();
    this.track(null);
    this.#base.close();
  }

  #forget(): void {
    this.#id = null;
    this.#isTracked = false;
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

function allocate(header: RamHeader, indexes: Uint32Array): ReturnType<typeof allocateRamChanges> {
  let changes;
  try {
    changes = allocateRamChanges(header, indexes);
  } catch (error) {
    throw new ColoError(`capture: ${header.pages} changed pages do not fit one buffer: ${messageOf(error)}`, {
      cause: error,
    });
  }
  adviseHuge(changes.bytes);
  return changes;
}
