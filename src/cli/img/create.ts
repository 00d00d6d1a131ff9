/** `colo img create`: new raw and qcow2 images. Words of qemu-img create. */
import { open } from 'node:fs/promises';
import { ColoError, ParameterError } from '../../base/errors.ts';
import { FileDriver } from '../../block/drivers/file.ts';
import { createQcow2 } from '../../block/drivers/qcow2/create.ts';
import type { CreateQcow2Options } from '../../block/drivers/qcow2/create.ts';
import { hasProtocol } from '../../block/probe.ts';
import { dirname, resolve } from 'node:path';
import { openOptions, parseSize, print, withImage } from './common.ts';

export interface CreateRequest {
  readonly format: string;
  readonly backing?: string;
  readonly backingFormat?: string;
  /** `cluster_size=64k,compat=1.1` */
  readonly options?: string;
  readonly quiet?: boolean;
  readonly unsafe?: boolean;
}

/** Makes `file`, with the backing file's size when `size` is missing. */
export async function createCommand(
  file: string,
  size: number | undefined,
  request: CreateRequest,
): Promise<number> {
  const options = parseCreateOptions(request.options);
  const backing = request.backing ?? options.get('backing_file');
  const backingFormat = request.backingFormat ?? options.get('backing_fmt');
  const optionSize = options.get('size');
  let sizeBytes = size ?? (optionSize === undefined ? undefined : parseSize(optionSize));
  for (const key of ['backing_file', 'backing_fmt', 'size']) options.delete(key);
  if (backing !== undefined) {
    if (backingFormat === undefined) {
      throw new ParameterError(`${file}: Backing file specified without backing format; say it with -F`);
    }
    if (!request.unsafe || sizeBytes === undefined) {
      const path = hasProtocol(backing) ? backing : resolve(dirname(file), backing);
      const length = await withImage(path, openOptions(true, backingFormat), (node) =>
        Promise.resolve(node.lengthBytes),
      );
      sizeBytes ??= length;
    }
  }
  if (sizeBytes === undefined) throw new ParameterError('Image creation needs a size parameter');
  if (request.format === 'raw') {
    if (backing !== undefined)
      throw new ColoError(`${file}: Backing file not supported for file format 'raw'`);
    refuseRest(options, 'raw');
    await createRaw(file, sizeBytes);
    if (!request.quiet) print(`Formatting '${file}', fmt=raw size=${sizeBytes}`);
    return 0;
  }
  if (request.format !== 'qcow2')
    throw new ParameterError(`${file}: Unknown file format '${request.format}'`);
  const plan: CreateQcow2Options = {
    sizeBytes,
    ...qcow2Options(options),
    ...(backing === undefined ? {} : { backingFile: backing }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
  };
  await createQcow2(file, plan);
  if (!request.quiet) print(describe(file, plan));
  return 0;
}

/** A sparse file of that length, replacing what was there. */
export async function createRaw(file: string, sizeBytes: number): Promise<void> {
  await (await open(file, 'a')).close();
  const driver = await FileDriver.open(file);
  try {
    await driver.truncate(0);
    await driver.truncate(sizeBytes);
  } finally {
    await driver.close();
  }
}

/** `a=1,b=2` as a map. */
export function parseCreateOptions(text: string | undefined): Map<string, string> {
  const options = new Map<string, string>();
  for (const part of (text ?? '').split(',').filter((piece) => piece !== '')) {
    const at = part.indexOf('=');
    if (at < 0) options.set(part, 'on');
    else options.set(part.slice(0, at), part.slice(at + 1));
  }
  return options;
}

/** The creation options of qcow2 that we know; others are refused. */
export function qcow2Options(options: Map<string, string>): Omit<CreateQcow2Options, 'sizeBytes'> {
  const take = (key: string): string | undefined => {
    const value = options.get(key);
    options.delete(key);
    return value;
  };
  const cluster = parseSize(take('cluster_size') ?? '64k');
  const compat = take('compat') ?? '1.1';
  const refcountBits = Number(take('refcount_bits') ?? '16');
  const lazy = take('lazy_refcounts') ?? 'off';
  const fixed: [string, string][] = [
    ['compression_type', 'zlib'],
    ['extended_l2', 'off'],
    ['preallocation', 'off'],
  ];
  for (const [key, only] of fixed) {
    const value = take(key) ?? only;
    if (value !== only) throw new ParameterError(`qcow2 creation option '${key}=${value}' is not supported`);
  }
  refuseRest(options, 'qcow2');
  const version = new Map<string, 2 | 3>([
    ['0.10', 2],
    ['v2', 2],
    ['1.1', 3],
    ['v3', 3],
  ]).get(compat);
  if (version === undefined) throw new ParameterError(`Invalid parameter '${compat}'`);
  if (!Number.isInteger(Math.log2(cluster))) {
    throw new ParameterError('Cluster size must be a power of two between 512 and 2048k');
  }
  if (!Number.isInteger(Math.log2(refcountBits)) || refcountBits > 64) {
    throw new ParameterError('Refcount width must be a power of two and may not exceed 64 bits');
  }
  return {
    clusterBits: Math.log2(cluster),
    version,
    refcountOrder: Math.log2(refcountBits),
    lazyRefcounts: lazy === 'on',
  };
}

function refuseRest(options: Map<string, string>, format: string): void {
  for (const key of options.keys())
    throw new ParameterError(`Invalid parameter '${key}' for format '${format}'`);
}

function describe(file: string, plan: CreateQcow2Options): string {
  const backing =
    plan.backingFile === undefined
      ? ''
      : ` backing_file=${plan.backingFile} backing_fmt=${plan.backingFormat ?? ''}`;
  const compat = plan.version === 2 ? ' compat=0.10' : '';
  return (
    `Formatting '${file}', fmt=qcow2 cluster_size=${2 ** (plan.clusterBits ?? 16)} extended_l2=off ` +
    `compression_type=zlib size=${plan.sizeBytes}${compat}${backing} lazy_refcounts=${plan.lazyRefcounts ? 'on' : 'off'} ` +
    `refcount_bits=${2 ** (plan.refcountOrder ?? 4)}`
  );
}
