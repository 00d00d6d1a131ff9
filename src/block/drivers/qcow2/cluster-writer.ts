/**
 * Everything that changes the mapping: writes into new clusters with copy-on-write, zero clusters, unmapping. The caller
 * holds the guest clusters alone (range-lock.ts). The order of steps is the rule in qcow2.ts: counts, data, L2 entry,
 * and last the counts of what was replaced.
 */
import { loggerFor } from '../../../base/logger.ts';
import { compressedPlace, clusterKind, entryOffset, putCompressed, putEntry, viewOf } from './format.ts';
import type { GuestMap, Run } from './guest-map.ts';
import type { Qcow2Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import type { Refcounts } from './refcounts.ts';
import type { MappingTables } from './tables.ts';

/** Version 2 writes zeros as data, in pieces of this size. */
const ZERO_PIECE = 2 ** 21;
const log = loggerFor('qcow2');

export class ClusterWriter {
  readonly clusterBytes: number;
  readonly #header: Readonly<Qcow2Header>;
  readonly #file: HostFile;
  readonly #tables: MappingTables;
  readonly #refcounts: Refcounts;
  readonly #map: GuestMap;

  constructor(
    header: Readonly<Qcow2Header>,
    file: HostFile,
    tables: MappingTables,
    refcounts: Refcounts,
    map: GuestMap,
  ) {
    this.clusterBytes = 2 ** header.clusterBits;
    this.#header = header;
    this.#file = file;
    this.#tables = tables;
    this.#refcounts = refcounts;
    this.#map = map;
  }

  /** Writes with the range held alone. */
  async write(offset: number, source: Uint8Array): Promise<void> {
    for (let done = 0; done < source.byteLength;) {
      const at = offset + done;
      const run = await this.#map.run(at, source.byteLength - done);
      if (run.kind === 'data' && run.inPlace) {
        await this.#file.write(run.hostOffset, source.subarray(done, done + run.length));
        done += run.length;
      } else {
        const length = await this.#replaceable(at, source.byteLength - done, run);
        done += await this.#writeNew(at, source.subarray(done, done + length));
      }
    }
  }

  /** The bytes from `offset` that have to get new clusters, up to the end of the L2 table. */
  async #replaceable(offset: number, max: number, first: Run): Promise<number> {
    const tableBytes = this.#tables.l2Entries * this.clusterBytes;
    const limit = Math.min(max, tableBytes - (offset % tableBytes));
    let length = Math.min(first.length, limit);
    while (length < limit) {
      const run = await this.#map.run(offset + length, limit - length);
      if (run.kind === 'data' && run.inPlace) break;
      length += run.length;
    }
    return length;
  }

  /** Gives the clusters under `source` new places, as many as lie side by side; returns the bytes dealt with. */
  async #writeNew(offset: number, source: Uint8Array): Promise<number> {
    const first = Math.floor(offset / this.clusterBytes);
    const wanted = Math.ceil((offset + source.byteLength) / this.clusterBytes) - first;
    const fresh = await this.#refcounts.allocate(wanted);
    const end = Math.min((first + fresh.count) * this.clusterBytes, offset + source.byteLength);
    const bytes = source.subarray(0, end - offset);
    try {
      await this.#writeData(offset, bytes, fresh.offset, fresh.virgin);
    } catch (error) {
      await this.#refcounts.release(fresh.offset, fresh.count).catch((cause: unknown) => {
        log.warn({ err: cause }, 'clusters leaked after a failed write');
      });
      throw error;
    }
    await this.#remap(first, fresh.count, (view, at, which) =>
      putEntry(view, at, fresh.offset + which * this.clusterBytes, { copied: true, zero: false }),
    );
    return bytes.byteLength;
  }

  /** Puts `bytes` into clusters at `host`, filling what they leave of the first and the last one from the old content. */
  async #writeData(offset: number, bytes: Uint8Array, host: number, virgin: boolean): Promise<void> {
    const head = offset % this.clusterBytes;
    const end = offset + bytes.byteLength;
    const tail = (this.clusterBytes - (end % this.clusterBytes)) % this.clusterBytes;
    const start = offset - head;
    const headOld = head > 0 ? await this.#oldContent(start, head, virgin) : null;
    const tailOld = tail > 0 ? await this.#oldContent(end, tail, virgin) : null;
    if (!headOld && !tailOld) return this.#file.write(host + head, bytes);
    if (bytes.byteLength <= 2 * this.clusterBytes) {
      const joined = Buffer.allocUnsafe(
        (headOld?.byteLength ?? 0) + bytes.byteLength + (tailOld?.byteLength ?? 0),
      );
      const skip = headOld?.byteLength ?? 0;
      if (headOld) joined.set(headOld);
      joined.set(bytes, skip);
      if (tailOld) joined.set(tailOld, skip + bytes.byteLength);
      return this.#file.write(headOld ? host : host + head, joined);
    }
    if (headOld) await this.#file.write(host, headOld);
    await this.#file.write(host + head, bytes);
    if (tailOld) await this.#file.write(host + head + bytes.byteLength, tailOld);
    return undefined;
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
    const table = await this.#tables.table(l1Index);
    const old = table ? table.bytes.slice(index * 8, (index + count) * 8) : null;
    await this.#tables.update(l1Index, index, count, put);
    if (!old) return;
    await this.#releaseEntries(old);
  }

  async #releaseEntries(entries: Uint8Array): Promise<void> {
    // Other content may come to the same place with an equal entry.
    this.#map.forget();
    for (const { offset, clusters } of referredPlaces(entries, this.#header.clusterBits)) {
      await this.#refcounts.release(offset, clusters);
    }
  }

  /** Puts `packed`, a deflated cluster, in the place of what the guest cluster at `offset` holds. */
  async writePacked(offset: number, packed: Uint8Array): Promise<void> {
    const { clusterBits } = this.#header;
    const place = {
      offset: await this.#refcounts.allocateBytes(packed.byteLength),
      length: packed.byteLength,
    };
    await this.#file.write(place.offset, packed);
    await this.#remap(Math.floor(offset / this.clusterBytes), 1, (view, at) =>
      putCompressed(view, at, place, clusterBits),
    );
  }

  /** Gives the clusters of [from, end) places that hold zeros, without writing any data; they have none so far. */
  async preallocate(from: number, end: number): Promise<void> {
    const tableBytes = this.#tables.l2Entries * this.clusterBytes;
    for (let at = from; at < end;) {
      const length = Math.min(end - at, tableBytes - (at % tableBytes));
      const fresh = await this.#refcounts.allocate(Math.ceil(length / this.clusterBytes));
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
