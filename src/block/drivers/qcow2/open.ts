/**
 * Opens a qcow2 node: header checked, backing file found (options first, then the header's name relative to the image),
 * tables loaded, and an image that was not closed (dirty bit) repaired before it is written.
 * Sources: QEMU qapi/block-core.json (BlockdevOptionsQcow2), block/qcow2.c; docs/qemu-behaviour.md 9.2, 9.4.
 */
import { isAbsolute } from 'node:path';
import { ColoError, ParameterError } from '../../../base/errors.ts';
import { loggerFor } from '../../../base/logger.ts';
import type { BlockNode } from '../../node.ts';
import type { OptionReader, OptionTree, OptionValue } from '../../options.ts';
import { mergeDefaults } from '../../generic-options.ts';
import { hasProtocol, parseFilename } from '../../probe.ts';
import type { OpenContext } from '../../registry.ts';
import { FileDriver } from '../file.ts';
import { Allocator } from './allocator.ts';
import { COMPRESSION_ZSTD, INCOMPAT_DIRTY } from './format.ts';
import { FIELD, HEADER_BYTES, Qcow2Error, checkHeader, decodeHeader, decodeTail } from './header.ts';
import type { HeaderExtension, Qcow2Header } from './header.ts';
import { HostFile } from './host-file.ts';
import { Qcow2Driver } from './qcow2.ts';
import { repairRefcounts } from './repair.ts';
import { Refcounts } from './refcounts.ts';
import { DEFAULT_L2_CACHE_BYTES, MappingTables } from './tables.ts';
import { hasZstd } from './zstd.ts';

const log = loggerFor('qcow2');
/** Tuning of QEMU's own caches and checks, which have no meaning here. */
const IGNORED = [
  'lazy-refcounts',
  'pass-discard-request',
  'pass-discard-snapshot',
  'pass-discard-other',
  'discard-no-unref',
  'overlap-check',
  'cache-size',
  'l2-cache-entry-size',
  'refcount-cache-size',
  'cache-clean-interval',
];

const REFUSED = [
  ['encrypt', 'encrypt what the image lies on, or convert it (qemu-img convert)'],
  ['data-file', 'the data has to be in the image itself; convert it (qemu-img convert)'],
] as const;

export interface Qcow2Info {
  readonly header: Qcow2Header;
  readonly extensions: readonly HeaderExtension[];
  readonly backingFile: string | null;
  readonly backingFormat: string | null;
}

/** The header of the image in `file`, decoded and checked. Throws Qcow2Error, IoError. */
export async function readQcow2Info(file: BlockNode, writable: boolean): Promise<Qcow2Info> {
  const head = new Uint8Array(Math.min(HEADER_BYTES, file.lengthBytes));
  await file.read(0, head);
  const header = decodeHeader(head);
  const cluster = new Uint8Array(2 ** header.clusterBits);
  await file.read(0, cluster.subarray(0, Math.min(cluster.byteLength, file.lengthBytes)));
  checkHeader(header, writable, cluster);
  if (header.compressionType === COMPRESSION_ZSTD && !hasZstd()) {
    throw new Qcow2Error(
      "qcow2 compression type 'zstd' needs libzstd.so.1, which is not there; install libzstd1",
    );
  }
  return { header, ...decodeTail(cluster, header) };
}

/**
 * Options: `file` (required), `backing` (subtree, reference, or empty for none), `l2-cache-size` (bytes), and one that
 * QEMU does not have: `copy-barrier=off`, see ClusterWriter.
 */
export async function openQcow2(options: OptionReader, context: OpenContext): Promise<Qcow2Driver> {
  const below = options.node('file');
  if (below === undefined) throw new ParameterError('A block device must be specified for "file"');
  const backingOption = options.node('backing');
  const cacheBytes = options.integer('l2-cache-size', 0, 2 ** 32) ?? DEFAULT_L2_CACHE_BYTES;
  const copyBarrier = options.boolean('copy-barrier') ?? true;
  const readOnly = options.boolean('read-only') ?? false;
  for (const key of IGNORED) options.node(key);
  for (const [key, why] of REFUSED) {
    if (options.node(key) !== undefined) {
      throw new ParameterError(`${key} is not supported by the qcow2 driver: ${why}`);
    }
  }
  options.finish('qcow2');
  const fileNode = await context.openChild('file', below);
  if (!readOnly && fileNode.readOnly) throw new ColoError(`Block node '${fileNode.nodeName}' is read-only`);
  const { header, backingFile, backingFormat } = await readQcow2Info(fileNode, !readOnly);
  const named = backingFile === null ? null : backingOptions(backingFile, backingFormat, fileNode);
  const wanted = chooseBacking(backingOption, named);
  const backing = wanted === null ? null : await context.openChild('backing', wanted);
  if (!readOnly && header.incompatible & INCOMPAT_DIRTY) await repairDirty(fileNode, header);
  const file = new HostFile(fileNode, 2 ** header.clusterBits);
  const refcounts = await Refcounts.load(file, header);
  const allocator = new Allocator(refcounts, file, 2 ** header.clusterBits);
  const tables = await MappingTables.load(file, header, allocator, cacheBytes);
  const saysBacking =
    backingFile === null
      ? null
      : { file: backingFile, fullName: fullBackingName(backingFile, fileNode), format: backingFormat };
  return new Qcow2Driver({
    ...{ header, fileNode, backing, readOnly, file, refcounts, allocator, tables },
    named: saysBacking,
    copyBarrier,
  });
}

/** Where a backing file's name leads: as in QEMU the image's folder, as it was given, is put in front. */
function fullBackingName(name: string, file: BlockNode): string | null {
  if (hasProtocol(name) || isAbsolute(name)) return name;
  if (!(file.driver instanceof FileDriver)) return null;
  const image = file.driver.filename;
  return image.slice(0, image.lastIndexOf('/') + 1) + name;
}

function backingOptions(name: string, format: string | null, file: BlockNode): OptionTree {
  const full = fullBackingName(name, file);
  if (full === null)
    throw new ColoError(`Cannot use the relative backing file name '${name}' of node '${file.nodeName}'`);
  const target: OptionTree = hasProtocol(name) ? parseFilename(name) : { driver: 'file', filename: full };
  if (name.startsWith('json:')) return target;
  return format === null ? { file: target } : { driver: format, file: target };
}

function chooseBacking(option: OptionValue | undefined, named: OptionTree | null): OptionValue | null {
  if (option === undefined) return named;
  if (option === '') return null;
  if (typeof option === 'string' || named === null) return option;
  // Options such as backing.node-name add to what the header says; a file of their own replaces it.
  return option['file'] === undefined && option['filename'] === undefined && option['driver'] === undefined
    ? mergeDefaults(option, named)
    : option;
}

/** The refcounts of an image that was not closed may be stale: they are made to say what the tables refer to. */
async function repairDirty(node: BlockNode, header: Qcow2Header): Promise<void> {
  const { leaksFixed, errorsFixed, after } = await repairRefcounts(node, header, 'all');
  if (after.errors > 0) {
    throw new ColoError(`qcow2: Image is corrupt (${after.messages[0] ?? ''}); cannot be opened read/write`);
  }
  header.incompatible &= ~INCOMPAT_DIRTY;
  const field = new Uint8Array(8);
  new DataView(field.buffer).setBigUint64(0, header.incompatible);
  await node.write(FIELD.incompatible, field);
  await node.flush();
  log.info({ node: node.nodeName, leaksFixed, errorsFixed }, 'repaired an image that was not closed');
}
