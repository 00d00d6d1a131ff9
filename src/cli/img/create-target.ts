/**
 * Makes the file of a new image from checked creation options: raw and qcow2. What QEMU has and we have not is refused
 * by name. Texts: QEMU block/qcow2.c, block/file-posix.c (asked of QEMU 7.2).
 */
import { open } from 'node:fs/promises';
import { ColoError, ParameterError, messageOf } from '../../base/errors.ts';
import { fileErrorText } from '../../base/file-errors.ts';
import { FileDriver } from '../../block/drivers/file.ts';
import { createQcow2 } from '../../block/drivers/qcow2/create.ts';
import type { CreateQcow2Options } from '../../block/drivers/qcow2/create.ts';
import { reserveSpace } from '../../block/drivers/libc.ts';
import { BlockGraph } from '../../block/graph.ts';
import { hasProtocol, parseFilename } from '../../block/probe.ts';
import { safeBytes } from './common.ts';
import type { CreateOptions } from './create-options.ts';

export type Preallocation = 'off' | 'falloc' | 'full';
const ZEROS = new Uint8Array(2 ** 20);
const VERSIONS = new Map<string, 2 | 3>([
  ['0.10', 2],
  ['v2', 2],
  ['1.1', 3],
  ['v3', 3],
]);
const COMPRESSIONS = ['zlib', 'zstd'];

/**
 * Makes `filename`, replacing what was there; false: it is there already and may hold anything (raw on an NBD export).
 * Throws ColoError with QEMU's text, without the name in front.
 */
export async function createTarget(filename: string, options: CreateOptions): Promise<boolean> {
  refuseFileOptions(options);
  const sizeText = options.get('size') ?? '0';
  const sizeBytes = safeBytes(BigInt(sizeText), tooLarge(options.format));
  if (options.format === 'raw' && /^nbd[^/]*:/.test(filename)) {
    await checkExport(filename, sizeBytes);
    return false;
  }
  const path = pathOf(filename);
  if (options.format === 'raw') await createRaw(path, sizeBytes, filePreallocation(options));
  else await create(path, () => createQcow2(path, qcow2Plan(options, sizeBytes)));
  return true;
}

/** Nobody can make an NBD export, but one that is large enough does as a raw image (QEMU: bdrv_create_file_fallback). */
async function checkExport(uri: string, sizeBytes: number): Promise<void> {
  const graph = new BlockGraph();
  try {
    const node = await graph.openImage(uri, { format: 'raw' });
    if (node.lengthBytes < sizeBytes) throw new ColoError('Cannot grow NBD nodes');
  } finally {
    await graph.closeAll();
  }
}

/** A sparse or reserved file of that length. */
async function createRaw(path: string, sizeBytes: number, preallocation: Preallocation): Promise<void> {
  await create(path, async () => {
    await (await open(path, 'a')).close();
    const driver = await FileDriver.open(path);
    try {
      await driver.truncate(0);
      await driver.truncate(sizeBytes).catch((cause: unknown) => {
        throw (causeCode(cause) ?? '') === 'EFBIG' ? new ColoError(tooLarge('raw'), { cause }) : cause;
      });
    } finally {
      await driver.close();
    }
    await preallocate(path, 0, sizeBytes, preallocation);
  });
}

/** Gives [from, to) of a file its place on the disk. Throws ColoError. */
export async function preallocate(path: string, from: number, to: number, how: Preallocation): Promise<void> {
  if (how === 'off' || to <= from) return;
  const handle = await open(path, 'r+');
  try {
    if (how === 'falloc') {
      if (!reserveSpace(handle.fd, from, to - from))
        throw new ColoError('Could not preallocate data for the new file: Operation not supported');
      return;
    }
    for (let at = from; at < to;) {
      const { bytesWritten } = await handle.write(ZEROS, 0, Math.min(ZEROS.byteLength, to - at), at);
      at += bytesWritten;
    }
    await handle.datasync();
  } catch (cause) {
    if (cause instanceof ColoError) throw cause;
    throw new ColoError(`Could not write to the new file: ${messageOf(cause)}`, { cause });
  } finally {
    await handle.close();
  }
}

/** How a qcow2 image is to be laid out. Throws ParameterError. */
function qcow2Plan(options: CreateOptions, sizeBytes: number): CreateQcow2Options {
  refuseQcow2Features(options);
  const compat = options.get('compat') ?? '1.1';
  const version = VERSIONS.get(compat);
  if (version === undefined)
    throw new ParameterError(`Parameter 'version' does not accept value '${compat}'`);
  const clusterBits = Math.log2(Number(options.get('cluster_size')));
  if (!Number.isInteger(clusterBits) || clusterBits < 9 || clusterBits > 21)
    throw new ParameterError('Cluster size must be a power of two between 512 and 2048k');
  const refcountOrder = Math.log2(Number(options.get('refcount_bits')));
  if (!Number.isInteger(refcountOrder) || refcountOrder > 6)
    throw new ParameterError('Refcount width must be a power of two and may not exceed 64 bits');
  const lazyRefcounts = options.isOn('lazy_refcounts');
  const newer = '(use version=v3 or greater)';
  if (version === 2 && refcountOrder !== 4) {
    throw new ParameterError(
      `Different refcount widths than 16 bits require compatibility level 1.1 or above ${newer}`,
    );
  }
  if (version === 2 && lazyRefcounts) {
    throw new ParameterError(`Lazy refcounts only supported with compatibility level 1.1 and above ${newer}`);
  }
  const backingFile = options.get('backing_file');
  const backingFormat = options.get('backing_fmt');
  if (backingFormat !== undefined && backingFile === undefined)
    throw new ParameterError('Backing format cannot be used without backing file');
  const preallocation = options.get('preallocation') ?? 'off';
  if (
    preallocation !== 'off' &&
    preallocation !== 'metadata' &&
    preallocation !== 'falloc' &&
    preallocation !== 'full'
  )
    throw new ParameterError(`Parameter 'preallocation' does not accept value '${preallocation}'`);
  return {
    sizeBytes,
    preallocation,
    version,
    clusterBits,
    refcountOrder,
    lazyRefcounts,
    ...(backingFile === undefined ? {} : { backingFile }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
  };
}

function refuseQcow2Features(options: CreateOptions): void {
  const refuse = (name: string, instead: string): never => {
    throw new ParameterError(
      `qcow2 creation option '${name}=${options.get(name) ?? ''}' is not supported; ${instead}`,
    );
  };
  const compression = options.get('compression_type') ?? 'zlib';
  if (!COMPRESSIONS.includes(compression))
    throw new ParameterError(`Parameter 'compression-type' does not accept value '${compression}'`);
  if (compression !== 'zlib') refuse('compression_type', 'use zlib');
  if (options.isOn('extended_l2')) refuse('extended_l2', 'use extended_l2=off');
  if (options.isOn('encryption')) refuse('encryption', 'images cannot be encrypted');
  for (const name of [
    'format',
    'key-secret',
    'cipher-alg',
    'cipher-mode',
    'ivgen-alg',
    'hash-alg',
    'iter-time',
  ])
    if (options.isGiven(`encrypt.${name}`)) refuse(`encrypt.${name}`, 'images cannot be encrypted');
  if (options.isGiven('encrypt.ivgen-hash-alg'))
    refuse('encrypt.ivgen-hash-alg', 'images cannot be encrypted');
  if ((options.get('data_file') ?? '') !== '') refuse('data_file', 'the data has to be in the image');
  if (options.isOn('data_file_raw')) throw new ParameterError('data-file-raw requires data-file');
}

/** Throws ParameterError for modes that a file has not. */
export function filePreallocation(options: CreateOptions): Preallocation {
  const mode = options.get('preallocation') ?? 'off';
  if (mode === 'off' || mode === 'falloc' || mode === 'full') return mode;
  throw new ParameterError(
    mode === 'metadata' ? 'Unsupported preallocation mode: metadata' : `invalid parameter value: ${mode}`,
  );
}

function refuseFileOptions(options: CreateOptions): void {
  if (options.isOn('nocow')) {
    throw new ParameterError("Creation option 'nocow=on' is not supported; use chattr +C on the folder");
  }
  const hint = options.get('extent_size_hint') ?? '0';
  if (hint !== '0') {
    throw new ParameterError(`Creation option 'extent_size_hint=${hint}' is not supported; use 0`);
  }
}

function pathOf(filename: string): string {
  if (!hasProtocol(filename)) return filename;
  const path = parseFilename(filename)['filename'];
  if (filename.startsWith('file:') && typeof path === 'string') return path;
  throw new ParameterError(
    `Protocol driver '${filename.slice(0, filename.indexOf(':'))}' does not support image creation; ` +
      'convert -n writes to an export that is there',
  );
}

/** Failures of the file system as QEMU tells them. */
async function create(path: string, make: () => Promise<void>): Promise<void> {
  try {
    await make();
  } catch (cause) {
    const text = fileErrorText(cause);
    if (text === undefined) throw cause;
    throw new ColoError(`Could not create '${path}': ${text}`, { cause });
  }
}

function causeCode(error: unknown): string | undefined {
  const cause = error instanceof Error ? error.cause : undefined;
  return (cause as NodeJS.ErrnoException | undefined)?.code;
}

function tooLarge(format: string): string {
  const hint = format === 'qcow2' ? ' (try using a larger cluster size)' : '';
  return `The image size is too large for file format '${format}'${hint}`;
}
