/**
 * The `raw` format: a window on its file node, the whole of it unless `offset` and `size` say otherwise
 * (QEMU qapi/block-core.json: BlockdevOptionsRaw). It adds nothing and caches nothing.
 */
import { ColoError, ParameterError } from '../../base/errors.ts';
import type { BlockDriver, BlockExtent, StrongOptions, WriteFlags } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import type { OptionReader } from '../options.ts';
import type { OpenContext } from '../registry.ts';

export class RawDriver implements BlockDriver {
  readonly driverName = 'raw';
  readonly readOnly: boolean;
  readonly #file: BlockNode;
  readonly #offset: number;
  #size: number | undefined;
  readonly #children: ReadonlyMap<string, BlockNode>;

  /** `size` undefined: to the end of the file, following its growth. */
  constructor(file: BlockNode, options: { readOnly?: boolean; offset?: number; size?: number } = {}) {
    this.#file = file;
    this.readOnly = (options.readOnly ?? false) || file.readOnly;
    this.#offset = options.offset ?? 0;
    this.#size = options.size;
    this.#children = new Map([['file', file]]);
  }

  get strongOptions(): StrongOptions {
    return {
      ...(this.#offset === 0 ? {} : { offset: this.#offset }),
      ...(this.#size === undefined ? {} : { size: this.#size }),
    };
  }

  get lengthBytes(): number {
    return this.#size ?? this.#file.lengthBytes - this.#offset;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.#children;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#file.read(this.#offset + offset, target);
  }

  write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    return this.#file.write(this.#offset + offset, source, flags);
  }

  writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    return this.#file.writeZeroes(this.#offset + offset, length, flags);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#file.discard(this.#offset + offset, length);
  }

  flush(): Promise<void> {
    return this.#file.flush();
  }

  async blockStatus(offset: number, length: number, wantMap = false): Promise<BlockExtent[]> {
    const below = await this.#file.blockStatus(this.#offset + offset, length);
    return below.map((extent) => ({
      ...extent,
      offset: extent.offset - this.#offset,
      allocated: true,
      map: wantMap ? { file: this.#file, offset: extent.offset } : undefined,
    }));
  }

  /** True: a window whose length was given as an option. */
  get hasFixedSize(): boolean {
    return this.#size !== undefined;
  }

  async truncate(lengthBytes: number): Promise<void> {
    if (this.#size !== undefined) throw new ColoError('Cannot resize fixed-size raw disks');
    if (!this.#file.driver.truncate) throw new ColoError('Image format driver does not support resize');
    await this.#file.driver.truncate(this.#offset + lengthBytes);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Options: `file` (required), `offset`, `size` (bytes). */
export async function openRaw(options: OptionReader, context: OpenContext): Promise<RawDriver> {
  const below = options.node('file');
  if (below === undefined) throw new ParameterError('A block device must be specified for "file"');
  const offset = options.integer('offset') ?? 0;
  const size = options.integer('size');
  const readOnly = options.boolean('read-only') ?? false;
  options.finish('raw');
  const file = await context.openChild('file', below);
  if (!readOnly && file.readOnly && file.driver.driverName !== 'file') {
    throw new ParameterError(`Node '${file.nodeName}' is read-only`);
  }
  if (offset + (size ?? 0) > file.lengthBytes) {
    throw new ParameterError(
      `The sum of offset (${offset}) and size (${size ?? 0}) has to be smaller or equal to the actual size of the containing file (${file.lengthBytes})`,
    );
  }
  return new RawDriver(file, { readOnly, offset, ...(size === undefined ? {} : { size }) });
}
