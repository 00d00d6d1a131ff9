/**
 * The common part of filters: a driver that hands everything to another one. A filter overrides what it changes.
 * It wraps a driver, not a node, so a filter keeps what the driver is (backing node, cluster size, makeEmpty); the
 * openable form wraps a child node through `NodeAsDriver`.
 */
import type { BlockDriver, BlockExtent, WriteFlags } from '../driver.ts';
import type { BlockNode } from '../node.ts';

export class PassThrough implements BlockDriver {
  readonly driverName: string;
  readonly clusterBytes?: number;
  readonly makeEmpty?: (isStable?: boolean) => Promise<void>;
  readonly truncate?: (lengthBytes: number) => Promise<void>;
  protected readonly next: BlockDriver;

  constructor(driverName: string, next: BlockDriver) {
    this.driverName = driverName;
    this.next = next;
    if (next.clusterBytes !== undefined) this.clusterBytes = next.clusterBytes;
    if (next.makeEmpty) {
      this.makeEmpty = (isStable) => this.around('makeEmpty', 0, 0, async () => next.makeEmpty?.(isStable));
    }
    if (next.truncate) this.truncate = async (lengthBytes) => next.truncate?.(lengthBytes);
  }

  get lengthBytes(): number {
    return this.next.lengthBytes;
  }

  get readOnly(): boolean {
    return this.next.readOnly;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.next.children();
  }

  /** Every request goes through here; what a filter usually overrides. `act` may be called once or not at all. */
  protected around<T>(_op: FilteredOp, _offset: number, _length: number, act: () => Promise<T>): Promise<T> {
    return act();
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.around('read', offset, target.byteLength, () => this.next.read(offset, target));
  }

  write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    return this.around('write', offset, source.byteLength, () => this.next.write(offset, source, flags));
  }

  flush(): Promise<void> {
    return this.around('flush', 0, 0, () => this.next.flush());
  }

  writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    return this.around('write', offset, length, () => this.zero(offset, length, flags));
  }

  /** Zeroes as the driver below can. */
  protected async zero(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    if (this.next.writeZeroes) await this.next.writeZeroes(offset, length, flags);
    else await this.next.write(offset, new Uint8Array(length), flags);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.around('discard', offset, length, async () => this.next.discard?.(offset, length));
  }

  blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    return this.around('status', offset, length, async () => {
      if (this.next.blockStatus) return this.next.blockStatus(offset, length);
      return [{ offset, length, zero: false, data: true, allocated: true }];
    });
  }

  close(): Promise<void> {
    return this.next.close();
  }
}

/** What a filter can tell apart; write-zeroes counts as a write. */
export type FilteredOp = 'read' | 'write' | 'flush' | 'discard' | 'status' | 'makeEmpty';

/** A child node, as a driver. It is no part of what the child is above: a backing file or makeEmpty stay with the child. */
export class NodeAsDriver implements BlockDriver {
  readonly driverName = 'node';
  readonly #file: BlockNode;
  readonly #readOnly: boolean;
  readonly #children: ReadonlyMap<string, BlockNode>;

  readonly truncate?: (lengthBytes: number) => Promise<void>;

  constructor(file: BlockNode, role = 'file', readOnly = false) {
    this.#file = file;
    this.#readOnly = readOnly;
    this.#children = new Map([[role, file]]);
    const { driver } = file;
    if (driver.truncate) this.truncate = async (lengthBytes) => driver.truncate?.(lengthBytes);
  }

  get lengthBytes(): number {
    return this.#file.lengthBytes;
  }

  get readOnly(): boolean {
    return this.#readOnly || this.#file.readOnly;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.#children;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#file.read(offset, target);
  }

  write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    return this.#file.write(offset, source, flags);
  }

  flush(): Promise<void> {
    return this.#file.flush();
  }

  writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    return this.#file.writeZeroes(offset, length, flags);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#file.discard(offset, length);
  }

  async blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    const extents = await this.#file.blockStatus(offset, length);
    return extents.map((extent) => (extent.allocated ? extent : { ...extent, allocated: true }));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
