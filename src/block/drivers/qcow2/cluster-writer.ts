/**
 * Everything that changes the mapping: writes into new clusters with copy-on-write, zero clusters, unmapping. The caller
 * holds the guest clusters alone (range-lock.ts). The order of steps is the rule in qcow2.ts: counted clusters, data,
 * L2 entry, and only then what was replaced is let go of.
 */
import { both } from './batch.ts';
import { compressedPlace, clusterKind, entryOffset, putCompressed, putEntry, viewOf } from './format.ts';
import type { GuestMap, Run } from './guest-map.ts';
import type { Qcow2Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import type { Allocator } from './allocator.ts';
import type { MappingTables } from './tables.ts';

/** Version 2 writes zeros as data, in pieces of this size. */
const ZERO_PIECE = 2 ** 21;

export class ClusterWriter {
  readonly clusterBytes: number;
  readonly #header: Readonly<Qcow2Header>;
  readonly #file: HostFile;
  readonly #tables: MappingTables;
  readonly #allocator: Allocator;
  readonly #map: GuestMap;
  /** Whether a write that copies the rest of its cluster waits for a flush before the copy is what counts. */
  copyBarrier: boolean;

  constructor(
    header: Readonly<Qcow2Header>,
    file: HostFile,
    tables: MappingTables,
    allocator: Allocator,
    map: GuestMap,
    copyBarrier = true,
  ) {
    this.copyBarrier = copyBarrier;
    this.clusterBytes = 2 ** header.clusterBits;
    this.#header = header;
    this.#file = file;
    this.#tables = tables;
    this.#allocator = allocator;
    this.#map = map;
  }

  /** Writes with the range held alone. */
  async write(offset: number, source: Uint8Array): Promise<void> {
    for (let done = 0; done < source.byteLength;) {
      const at = offset + done;
      const run =
        this.#map.peekRun(at, source.byteLength - done) ??
        (await this.#map.run(at, source.byteLength - done));
      if (run.kind === 'data' && run.inPlace) {
        await this.#file.write(run.hostOffset, source.subarray(done, done + run.length));
        done += run.length;
      } else {
        const { length, wasZero } = await this.#replaceable(at, source.byteLength - done, run);
        done += await this.#writeNew(at, source.subarray(done, done + length), wasZero);
      }
    }
    await this.#settle();
  }

  /**
   * The bytes from `offset` that have to get new clusters, up to the end of the L2 table, and whether all of these
   * clusters read as zeros so far.
   */
  async #replaceable(offset: number, max: number, first: Run): Promise<{ length: number; wasZero: boolean }> {
    const tableBytes = this.#tables.l2Entries * this.clusterBytes;
    const limit = Math.min(max, tableBytes - (offset % tableBytes));
    let length = Math.min(first.length, limit);
    let wasZero = this.#readsAsZeros(first, offset - (offset % this.clusterBytes));
    while (length < limit) {
      const run = await this.#map.run(offset + length, limit - length);
      if (run.kind === 'data' && run.inPlace) break;
      wasZero &&= this.#readsAsZeros(run, offset + length);
      length += run.length;
    }
    return { length, wasZero };
  }

  /** Whether a run that begins with the cluster at `start` shows zeros. */
  #readsAsZeros(run: Run, start: number): boolean {
    if (run.kind === 'unallocated') return this.#map.belowIsZero(start);
    return run.kind === 'zero' || run.kind === 'zero-allocated';
  }

  /** Gives the clusters under `source` new places, as many as lie side by side; returns the bytes dealt with. */
  async #writeNew(offset: number, source: Uint8Array, wasZero: boolean): Promise<number> {
    const first = Math.floor(offset / this.clusterBytes);
    const wanted = Math.ceil((offset + source.byteLength) / this.clusterBytes) - first;
    const fresh = this.#allocator.take(wanted) ?? (await this.#allocator.allocate(wanted));
    const end = Math.min((first + fresh.count) * this.clusterBytes, offset + source.byteLength);
    const bytes = end - offset === source.byteLength ? source : source.subarray(0, end - offset);
    const put = (view: DataView, at: number, which: number): void =>
      putEntry(view, at, fresh.offset + which * this.clusterBytes, { copied: true, zero: false });
    if (wasZero && fresh.virgin) {
      // Zeros before, zeros in the new place: entry and data may come in any order.
      const mapped = this.#remap(first, fresh.count, put);
      const written = this.#file.write(fresh.offset + (offset % this.clusterBytes), bytes);
      await both(written, mapped);
      return bytes.byteLength;
    }
    try {
      const copied = await this.#writeData(offset, bytes, fresh.offset, fresh.virgin);
      // What is copied may be all that there is of bytes that were flushed long ago.
      if (copied && this.copyBarrier) await this.#file.barrier();
    } catch (error) {
      this.#allocator.release(fresh.offset, fresh.count);
      throw error;
    }
    await this.#remap(first, fresh.count, put);
    return bytes.byteLength;
  }

  /**
   * Puts `bytes` into clusters at `host`, filling what they leave of the first and the last one from the old content.
   * True: something had to be filled in.
   */
  async #writeData(offset: number, bytes: Uint8Array, host: number, virgin: boolean): Promise<boolean> {
    const head = offset % this.clusterBytes;
    const end = offset + bytes.byteLength;
    const tail = (this.clusterBytes - (end % this.clusterBytes)) % this.clusterBytes;
    const start = offset - head;
    const headOld = head > 0 ? await this.#oldContent(start, head, virgin) : null;
    const tailOld = tail > 0 ? await this.#oldContent(end, tail, virgin) : null;
    if (!headOld && !tailOld) {
      await this.#file.write(host + head, bytes);
      return false;
    }
    if (bytes.byteLength <= 2 * this.clusterBytes) {
      const joined = Buffer.allocUnsafe(
        (headOld?.byteLength ?? 0) + bytes.byteLength + (tailOld?.byteLength ?? 0),
      );
      const skip = headOld?.byteLength ?? 0;
      if (headOld) joined.set(headOld);
      joined.set(bytes, skip);
      if (tailOld) joined.set(tailOld, skip + bytes.byteLength);
      await this.#file.write(headOld ? host : host + head, joined);
      return true;
    }
    if (headOld) await this.#file.write(host, headOld);
    await this.#file.write(host + head, bytes);
    if (tailOld) await this.#file.write(host + head + bytes.byteLength, tailOld);
    return true;
  }

  /** What a fresh cluster must take over at [offset, offset+length); null: zeros, and they are there already. */
  async #oldContent(offset: number, length: number, virgin: boolean): Promise<Uint8Array | null> {
    const inImage = Math.max(0, Math.min(length, this.#header.sizeBytes - offset));
    const run = inImage > 0 ? await this.#map.run(offset, inImage) : this.#map.unallocated(length, length);
    const isZero =
      run.kind === 'zero' ||
      run.kind === 'zero-allocated' ||
      (run.kind === 'unallocated' && (inImage === 0 || this.#map.belowIsZero(offset)));
    if (isZero) return virgin ? null : new Uint8Array(length);
    const bytes = new Uint8Array(length);
    await this.#map.readRun(run, offset, bytes.subarray(0, inImage));
    return bytes;
  }

  /** Changes the entries of `count` clusters (within one L2 table), then lets go of what they pointed to. */
  async #remap(
    first: number,
    count: number,
    put: (view: DataView, at: number, which: number) => void,
  ): Promise<void> {
    const { l2Entries } = this.#tables;
    const l1Index = Math.floor(first / l2Entries);
    const index = first % l2Entries;
    let table = this.#tables.peek(l1Index);
    if (table === undefined) table = await this.#tables.table(l1Index);
    const old = table ? table.bytes.slice(index * 8, (index + count) * 8) : null;
    await this.#tables.update(l1Index, index, count, put);
    if (old) this.#releaseEntries(old);
  }

  #releaseEntries(entries: Uint8Array): void {
    const places = referredPlaces(entries, this.#header.clusterBits);
    if (places.length === 0) return;
    // Other content may come to the same place with an equal entry.
    this.#map.forget();
    for (const { offset, clusters } of places) this.#allocator.release(offset, clusters);
  }

  /** Lets what was replaced wait for a flush, but not too much of it. */
  async #settle(): Promise<void> {
    if (this.#allocator.isOverdue) await this.#allocator.settle('barrier');
  }

  /** Puts `packed`, a deflated cluster, in the place of what the guest cluster at `offset` holds. */
  async writePacked(offset: number, packed: Uint8Array): Promise<void> {
    const { clusterBits } = this.#header;
    const place = {
      offset: await this.#allocator.allocateBytes(packed.byteLength),
      length: packed.byteLength,
    };
    await this.#file.write(place.offset, packed);
    // A reference that is not counted would be an error, and one to half a stream could not be read.
    await this.#file.barrier();
    await this.#remap(Math.floor(offset / this.clusterBytes), 1, (view, at) =>
      putCompressed(view, at, place, clusterBits),
    );
    await this.#settle();
  }

  /** Gives the clusters of [from, end) places that hold zeros, without writing any data; they have none so far. */
  async preallocate(from: number, end: number): Promise<void> {
    const tableBytes = this.#tables.l2Entries * this.clusterBytes;
    for (let at = from; at < end;) {
      const length = Math.min(end - at, tableBytes - (at % tableBytes));
      const fresh = await this.#allocator.allocate(Math.ceil(length / this.clusterBytes));
      await this.#remap(at / this.clusterBytes, fresh.count, (view, entry, which) =>
        putEntry(view, entry, fresh.offset + which * this.clusterBytes, { copied: true, zero: false }),
      );
      at += fresh.count * this.clusterBytes;
    }
  }

  /** Makes whole clusters read as zeros. `unmap`: give their places back. */
  async zero(from: number, end: number, unmap: boolean): Promise<void> {
    for (let at = from; at < end;) {
      const run = await this.#map.run(at, end - at);
      const belowIsZero = this.#map.belowIsZero(at);
      if (
        run.kind === 'zero' ||
        run.kind === 'zero-allocated' ||
        (run.kind === 'unallocated' && belowIsZero)
      ) {
        at += run.length;
      } else if (this.#header.version === 3) {
        if (!unmap && run.kind === 'data' && run.inPlace) await this.#markZero(at, run);
        else await this.unmap(at, run, true);
        at += run.length;
      } else if (belowIsZero) {
        await this.unmap(at, run, false);
        at += run.length;
      } else {
        // Version 2 has no zero clusters: over a backing file zeros are data.
        const length = Math.min(run.length, ZERO_PIECE);
        await this.write(at, new Uint8Array(length));
        at += length;
      }
    }
  }

  async #markZero(offset: number, run: Run): Promise<void> {
    const count = Math.ceil(run.length / this.clusterBytes);
    await this.#remapKeeping(Math.floor(offset / this.clusterBytes), count, (view, at, which) =>
      putEntry(view, at, run.hostOffset + which * this.clusterBytes, { copied: true, zero: true }),
    );
  }

  /** Takes the clusters of a run away; they read as zeros (`zero`) or show what is below. */
  async unmap(offset: number, run: Run, zero: boolean): Promise<void> {
    const count = Math.ceil(run.length / this.clusterBytes);
    await this.#remap(Math.floor(offset / this.clusterBytes), count, (view, at) =>
      putEntry(view, at, 0, { copied: false, zero }),
    );
    await this.#settle();
  }

  async #remapKeeping(
    first: number,
    count: number,
    put: (view: DataView, at: number, which: number) => void,
  ): Promise<void> {
    const { l2Entries } = this.#tables;
    await this.#tables.update(Math.floor(first / l2Entries), first % l2Entries, count, put);
  }
}

/** The file ranges that L2 entries refer to, in whole clusters, neighbours joined. */
export function referredPlaces(
  entries: Uint8Array,
  clusterBits: number,
): { offset: number; clusters: number }[] {
  const view = viewOf(entries);
  const clusterBytes = 2 ** clusterBits;
  const places: { offset: number; clusters: number }[] = [];
  for (let at = 0; at < entries.byteLength; at += 8) {
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    const kind = clusterKind(hi, lo);
    if (kind === 'unallocated' || kind === 'zero') continue;
    let offset = entryOffset(hi, lo);
    let clusters = 1;
    if (kind === 'compressed') {
      const place = compressedPlace(hi, lo, clusterBits);
      offset = Math.floor(place.offset / clusterBytes) * clusterBytes;
      clusters = Math.floor((place.offset + place.length - 1) / clusterBytes) - offset / clusterBytes + 1;
    }
    const last = places.at(-1);
    if (last && kind !== 'compressed' && last.offset + last.clusters * clusterBytes === offset)
      last.clusters += clusters;
    else places.push({ offset, clusters });
  }
  return places;
}
