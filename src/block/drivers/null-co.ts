/** QEMU's `null-co`: a device of a given size that swallows writes and reads as zeros. For tests and benches. */
import { ParameterError } from '../../base/errors.ts';
import type { BlockDriver, BlockExtent, StrongOptions } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import type { OptionReader } from '../options.ts';

/** QEMU's. */
const DEFAULT_BYTES = 2 ** 30;

export class NullDriver implements BlockDriver {
  readonly driverName = 'null-co';
  readonly lengthBytes: number;
  readonly readOnly: boolean;
  readonly exactName: string | null;
  readonly strongOptions: StrongOptions;

  constructor(lengthBytes: number, readOnly = false) {
    this.lengthBytes = lengthBytes;
    this.readOnly = readOnly;
    this.exactName = lengthBytes === DEFAULT_BYTES ? 'null-co://' : null;
    this.strongOptions = this.exactName === null ? { size: lengthBytes } : {};
  }

  children(): ReadonlyMap<string, BlockNode> {
    return new Map();
  }

  read(_offset: number, target: Uint8Array): Promise<void> {
    target.fill(0);
    return Promise.resolve();
  }

  write(): Promise<void> {
    return Promise.resolve();
  }

  writeZeroes(): Promise<void> {
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    return Promise.resolve([{ offset, length, zero: true, data: false, allocated: true }]);
  }

  allocatedBytes(): Promise<number> {
    return Promise.resolve(0);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Options: `size` in bytes (default 1 GiB, as in QEMU), `read-zeroes` (accepted: reads always give zeros). */
export function openNull(options: OptionReader): Promise<NullDriver> {
  const size = options.integer('size') ?? DEFAULT_BYTES;
  options.boolean('read-zeroes');
  if ((options.integer('latency-ns') ?? 0) !== 0) {
    throw new ParameterError("latency-ns is not supported by the 'null-co' driver; leave it out");
  }
  const readOnly = options.boolean('read-only') ?? false;
  options.finish('null-co');
  return Promise.resolve(new NullDriver(size, readOnly));
}
