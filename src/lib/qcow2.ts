/**
 * `colo-ft/qcow2`: images in the format of QEMU, versions 2 and 3, made, opened with their backing files, read, written,
 * grown, checked and repaired. Offsets, lengths and sizes are bytes, of any alignment. What of the format is known is in
 * docs/nbd-qcow2.md.
 *
 * An open image satisfies NbdExportSource of `colo-ft/nbd`. It is locked as QEMU locks images, so that no two programs
 * write one.
 */
import { ColoError, IoError, ParameterError, messageOf } from '../base/errors.ts';
import { checkQcow2 } from '../block/drivers/qcow2/check.ts';
import type { CheckReport } from '../block/drivers/qcow2/check.ts';
import { createQcow2 } from '../block/drivers/qcow2/create.ts';
import { readQcow2Info } from '../block/drivers/qcow2/open.ts';
import { Qcow2Driver } from '../block/drivers/qcow2/qcow2.ts';
import { repairRefcounts } from '../block/drivers/qcow2/repair.ts';
import { FileDriver } from '../block/drivers/file.ts';
import { BlockGraph } from '../block/graph.ts';
import { BlockNode } from '../block/node.ts';

export * from './errors.ts';

/** Of a new image. Sizes are bytes. */
export interface Qcow2CreateOptions {
  /** What the guest sees: a whole number from 0 to 2^53 - 1, rounded up to a multiple of 512. */
  readonly sizeBytes: number;
  /** A power of two from 512 to 2 MiB; default 65,536. */
  readonly clusterBytes?: number;
  /** Of the format; default 3. */
  readonly version?: 2 | 3;
  /** What the image is laid over. A relative path is one from the image's folder. It is not looked at. */
  readonly backing?: {
    /** A path, as it will stand in the header. */
    readonly file: string;
    /** Is not probed: a guest could write what a probe would take for another. */
    readonly format: 'raw' | 'qcow2';
  };
}

/** All optional. */
export interface Qcow2OpenOptions {
  /** Default false. A writable image that was not closed is repaired first. */
  readonly readOnly?: boolean;
  /**
   * False: what the header calls a backing file is not opened, and what it would hold reads as zeros. For images of
   * strangers, who may have named any file of this host. Default true.
   */
  readonly openBacking?: boolean;
}

/** A range of one kind. */
export interface Qcow2Extent {
  /** Of its first byte, as the guest counts. */
  readonly offset: number;
  /** Bytes, 1 or more. */
  readonly length: number;
  /** Reads as zeros. */
  readonly zero: boolean;
  /** Bytes are stored, here or in a backing file; false: a hole. */
  readonly data: boolean;
  /** This image determines the content; false: a backing file does, or nothing. */
  readonly allocated: boolean;
}

/** What a check has found; after a repair, what is left. */
export interface Qcow2Check {
  /** Data may be corrupt, or further writes may corrupt it. */
  readonly errors: number;
  /** Clusters that nothing refers to: space lost, nothing else. */
  readonly leaks: number;
  /** One line a finding, the first thousand. */
  readonly messages: readonly string[];
  /** Guest clusters that have a place in the file, of all. */
  readonly allocatedClusters: number;
  /** Guest clusters, with a place in the file or without. */
  readonly totalClusters: number;
  /** By the repair; 0 without one. */
  readonly errorsFixed: number;
  /** By the repair; 0 without one. */
  readonly leaksFixed: number;
}

/** All optional. */
export interface Qcow2CheckOptions {
  /** `leaks` gives back what nothing refers to; `all` mends what can be mended. Default: reads only. */
  readonly repair?: 'leaks' | 'all';
}

/** An open image: a source for `NbdServer`, and what `Qcow2.open` returns. Offsets and lengths are bytes, as the guest counts. */
export class Qcow2 {
  readonly #graph: BlockGraph;
  readonly #node: BlockNode;
  readonly #driver: Qcow2Driver;

  private constructor(graph: BlockGraph, node: BlockNode, driver: Qcow2Driver) {
    this.#graph = graph;
    this.#node = node;
    this.#driver = driver;
  }

  /** Makes an empty image, replacing what was there. Throws ParameterError; ColoError: no permission, in use. */
  static async create(path: string, options: Qcow2CreateOptions): Promise<void> {
    const { sizeBytes, clusterBytes = 65_536, version = 3, backing } = options;
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
      throw new ParameterError(`sizeBytes is ${sizeBytes}: it has to be a whole number from 0`);
    const clusterBits = Math.log2(clusterBytes);
    if (!Number.isInteger(clusterBits) || clusterBits < 9 || clusterBits > 21)
      throw new ParameterError(
        `clusterBytes is ${clusterBytes}: it has to be a power of two from 512 to 2 MiB`,
      );
    const below = backing && { backingFile: backing.file, backingFormat: backing.format };
    await naming(path, 'create', () => createQcow2(path, { sizeBytes, clusterBits, version, ...below }));
  }

  /** Throws ColoError: not there, in use, not a qcow2 image, or one that needs what is not known here. */
  static async open(path: string, options: Qcow2OpenOptions = {}): Promise<Qcow2> {
    const { readOnly = false, openBacking = true } = options;
    const graph = new BlockGraph();
    try {
      return await naming(path, 'open', async () => {
        const node = await graph.addNode({
          driver: 'qcow2',
          'node-name': 'image',
          'read-only': readOnly ? 'on' : 'off',
          discard: 'unmap',
          file: { driver: 'file', filename: path },
          ...(openBacking ? {} : { backing: '' }),
        });
        if (!(node.driver instanceof Qcow2Driver)) throw new ColoError('not a qcow2 image');
        return new Qcow2(graph, node, node.driver);
      });
    } catch (error) {
      await graph.closeAll();
      throw error;
    }
  }

  /** Checks an image that nobody has open for writing, or repairs one that nobody has open. Throws ColoError. */
  static async check(path: string, { repair }: Qcow2CheckOptions = {}): Promise<Qcow2Check> {
    return naming(path, 'check', async () => {
      const file = new BlockNode('file', await FileDriver.open(path, { readOnly: repair === undefined }));
      try {
        const { header } = await readQcow2Info(file, repair !== undefined);
        if (repair === undefined) return resultOf(await checkQcow2(file, header), 0, 0);
        const { after, errorsFixed, leaksFixed } = await repairRefcounts(file, header, repair);
        return resultOf(after, errorsFixed, leaksFixed);
      } finally {
        await file.close();
      }
    });
  }

  /** What the guest sees: a multiple of 512. */
  get lengthBytes(): number {
    return this.#node.lengthBytes;
  }

  /** Whether it was opened so. */
  get readOnly(): boolean {
    return this.#node.readOnly;
  }

  /** A power of two from 512 to 2 MiB. */
  get clusterBytes(): number {
    return this.#driver.clusterBytes;
  }

  /** As the header names it, whether it was opened or not; null: none. */
  get backingFile(): string | null {
    return this.#driver.namedBacking?.file ?? null;
  }

  /** Fills all of `target`. Requests may overlap. Throws IoError, EINVAL outside of the image. */
  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#node.read(offset, target);
  }

  /**
   * `source` must not change until the promise ends. `fua`: it is on stable storage by then. Throws IoError, EPERM when
   * the image is read-only.
   */
  write(offset: number, source: Uint8Array, flags?: { readonly fua?: boolean }): Promise<void> {
    return this.#node.write(offset, source, flags);
  }

  /** What was written before is on stable storage afterwards. Throws IoError. */
  flush(): Promise<void> {
    return this.#node.flush();
  }

  /** `unmap: false` keeps the space. Throws IoError. */
  writeZeroes(
    offset: number,
    length: number,
    flags?: { readonly fua?: boolean; readonly unmap?: boolean },
  ): Promise<void> {
    return this.#node.writeZeroes(offset, length, flags);
  }

  /** The content is not needed any more. Whole clusters are given back and read as zeros. Throws IoError. */
  discard(offset: number, length: number): Promise<void> {
    return this.#node.discard(offset, length);
  }

  /** Extents that cover exactly the range, in order; neighbours may be of one kind. Throws IoError. */
  blockStatus(offset: number, length: number): Promise<readonly Qcow2Extent[]> {
    return this.#node.blockStatus(offset, length);
  }

  /**
   * Another size for the guest: a multiple of 512, larger than now. What is new reads as zeros. Throws ParameterError,
   * IoError, ColoError.
   */
  async grow(sizeBytes: number): Promise<void> {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes % 512 !== 0 || sizeBytes < this.lengthBytes)
      throw new ParameterError(
        `sizeBytes is ${sizeBytes}: it has to be a multiple of 512, and no less than ${this.lengthBytes}`,
      );
    if (this.readOnly) throw new IoError('EPERM', 'The image is read-only');
    await this.#node.drain();
    await this.#driver.truncate(sizeBytes);
  }

  /** Waits for requests under way, flushes and releases the files. Idempotent. */
  close(): Promise<void> {
    return this.#graph.closeAll();
  }
}

/** Expected errors say which image they are about. */
async function naming<T>(path: string, verb: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    // A missing or locked file says so itself.
    if (cause instanceof ColoError && cause.message.startsWith('Could not open')) throw cause;
    throw new ColoError(`Could not ${verb} '${path}': ${messageOf(cause)}`, { cause });
  }
}

function resultOf(report: CheckReport, errorsFixed: number, leaksFixed: number): Qcow2Check {
  const { errors, leaks, messages, allocatedClusters, totalClusters } = report;
  return { errors, leaks, messages, allocatedClusters, totalClusters, errorsFixed, leaksFixed };
}
