/**
 * A sparse image in memory, with all that a format driver can do: clusters, a backing node, zero clusters, discard,
 * makeEmpty, truncate. It is the reference that the other drivers' conformance suite was written against, and the
 * tests' stand-in for a disk. Nothing is ever stored.
 */
import { ParameterError } from '../../base/errors.ts';
import type { BlockDriver, BlockExtent } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import type { OptionReader } from '../options.ts';
import type { OpenContext } from '../registry.ts';

export interface MemoryDriverOptions {
  readonly backing?: BlockNode;
  readonly readOnly?: boolean;
  /** Allocation unit in bytes (default 65536). */
  readonly clusterBytes?: number;
}

/** A cluster that reads as zeros without taking memory. */
const ZERO = Symbol('zero cluster');

export class MemoryDriver implements BlockDriver {
  readonly driverName = 'memory';
  readonly readOnly: boolean;
  readonly clusterBytes: number;
  lengthBytes: number;
  readonly #clusters = new Map<number, Uint8Array | typeof ZERO>();
  readonly #children = new Map<string, BlockNode>();
  /** How often flush was called, for tests. */
  flushes = 0;

  constructor(lengthBytes: number, options: MemoryDriverOptions = {}) {
    this.lengthBytes = lengthBytes;
    this.readOnly = options.readOnly ?? false;
    this.clusterBytes = options.clusterBytes ?? 65536;
    if (options.backing) this.#children.set('backing', options.backing);
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.#children;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    for (const part of this.#parts(offset, target.byteLength)) {
      const out = target.subarray(part.from, part.from + part.length);
      const cluster = this.#clusters.get(part.cluster);
      if (cluster === undefined) await this.#readBelow(offset + part.from, out);
      else if (cluster === ZERO) out.fill(0);
      else out.set(cluster.subarray(part.at, part.at + part.length));
    }
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    for (const part of this.#parts(offset, source.byteLength)) {
      const bytes = source.subarray(part.from, part.from + part.length);
      const cluster = part.length === this.clusterBytes ? undefined : await this.#materialize(part.cluster);
      if (cluster) cluster.set(bytes, part.at);
      else this.#clusters.set(part.cluster, new Uint8Array(bytes)); // Not slice(): that of a Buffer copies nothing.
    }
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    for (const part of this.#parts(offset, length)) {
      if (part.length === this.clusterBytes) this.#clusters.set(part.cluster, ZERO);
      else (await this.#materialize(part.cluster)).fill(0, part.at, part.at + part.length);
    }
  }

  discard(offset: number, length: number): Promise<void> {
    for (const part of this.#parts(offset, length)) {
      if (part.length === this.clusterBytes && this.#clusters.has(part.cluster))
        this.#clusters.set(part.cluster, ZERO);
    }
    return Promise.resolve();
  }

  async blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    const extents: BlockExtent[] = [];
    for (const part of this.#parts(offset, length)) {
      const cluster = this.#clusters.get(part.cluster);
      const at = offset + part.from;
      if (cluster === undefined) extents.push(...(await this.#statusBelow(at, part.length)));
      else {
        const zero = cluster === ZERO;
        extents.push({ offset: at, length: part.length, zero, data: !zero, allocated: true });
      }
    }
    return extents;
  }

  makeEmpty(): Promise<void> {
    this.#clusters.clear();
    return Promise.resolve();
  }

  truncate(lengthBytes: number): Promise<void> {
    if (lengthBytes < this.lengthBytes) {
      const keep = Math.ceil(lengthBytes / this.clusterBytes);
      for (const index of [...this.#clusters.keys()]) if (index >= keep) this.#clusters.delete(index);
      const last = this.#clusters.get(Math.floor(lengthBytes / this.clusterBytes));
      if (last instanceof Uint8Array) last.fill(0, lengthBytes % this.clusterBytes);
    }
    this.lengthBytes = lengthBytes;
    return Promise.resolve();
  }

  flush(): Promise<void> {
    this.flushes++;
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#clusters.clear();
    return Promise.resolve();
  }

  /** The bytes of a cluster as something that can be written to, copied up from below if need be. */
  async #materialize(index: number): Promise<Uint8Array> {
    const found = this.#clusters.get(index);
    if (found instanceof Uint8Array) return found;
    const fresh = new Uint8Array(this.clusterBytes);
    if (found === undefined) {
      const start = index * this.clusterBytes;
      await this.#readBelow(start, fresh.subarray(0, Math.min(this.clusterBytes, this.lengthBytes - start)));
      // Another request may have been faster while the backing node was read.
      const raced = this.#clusters.get(index);
      if (raced instanceof Uint8Array) return raced;
      if (raced === ZERO) fresh.fill(0);
    }
    this.#clusters.set(index, fresh);
    return fresh;
  }

  async #readBelow(offset: number, target: Uint8Array): Promise<void> {
    const backing = this.#children.get('backing');
    const there = backing ? Math.max(0, Math.min(target.byteLength, backing.lengthBytes - offset)) : 0;
    if (backing && there > 0) await backing.read(offset, target.subarray(0, there));
    target.fill(0, there);
  }

  async #statusBelow(offset: number, length: number): Promise<BlockExtent[]> {
    const backing = this.#children.get('backing');
    const there = backing ? Math.max(0, Math.min(length, backing.lengthBytes - offset)) : 0;
    const below = backing && there > 0 ? await backing.blockStatus(offset, there) : [];
    const extents = below.map((extent) => ({ ...extent, allocated: false }));
    if (there < length) {
      extents.push({
        offset: offset + there,
        length: length - there,
        zero: true,
        data: false,
        allocated: false,
      });
    }
    return extents;
  }

  *#parts(
    offset: number,
    length: number,
  ): Generator<{ cluster: number; at: number; from: number; length: number }> {
    for (let from = 0; from < length;) {
      const cluster = Math.floor((offset + from) / this.clusterBytes);
      const at = offset + from - cluster * this.clusterBytes;
      const take = Math.min(this.clusterBytes - at, length - from);
      yield { cluster, at, from, length: take };
      from += take;
    }
  }
}

/** Options: `size` (bytes, required), `cluster-size`, `backing`. */
export async function openMemory(options: OptionReader, context: OpenContext): Promise<MemoryDriver> {
  const size = options.integer('size', 0, 2 ** 40);
  if (size === undefined) throw new ParameterError("Parameter 'size' is missing");
  const clusterBytes = options.integer('cluster-size', 512, 2 ** 21) ?? 65536;
  const readOnly = options.boolean('read-only') ?? false;
  const below = options.node('backing');
  options.finish('memory');
  const backing = below === undefined ? undefined : await context.openChild('backing', below);
  return new MemoryDriver(size, { readOnly, clusterBytes, ...(backing ? { backing } : {}) });
}
