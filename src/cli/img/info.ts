/**
 * `colo img info`: what images are, for people and as JSON (QEMU qapi/block-core.json: ImageInfo; block/qapi.c's texts,
 * asked of QEMU 7.2). A qcow2 image is told by its header alone, so that images that cannot be opened (encrypted, with an
 * external data file, without their backing file) can still be looked at.
 */
import { stat } from 'node:fs/promises';
import { ColoError, messageOf } from '../../base/errors.ts';
import { FileDriver } from '../../block/drivers/file.ts';
import {
  COMPAT_LAZY_REFCOUNTS,
  INCOMPAT_CORRUPT,
  INCOMPAT_DIRTY,
  INCOMPAT_EXTENDED_L2,
} from '../../block/drivers/qcow2/format.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import type { OptionTree } from '../../block/options.ts';
import { PROBE_BYTES, parseFilename, probeFormat } from '../../block/probe.ts';
import { openImage, shownName, sizeInSectors, treeOf } from './common.ts';
import type { ImageName, OutputForm } from './common.ts';
import { besideImage } from './create.ts';
import { humanInfo } from './info-text.ts';
import { prettyJson } from './info-json.ts';
import type { Json } from './info-json.ts';
import type { ImgIo } from './io.ts';
import { readLuks } from './luks.ts';
import { dataFileName, readBitmaps, readQcow2Header, readSnapshots } from './qcow2-extras.ts';
import type { SnapshotInfo } from './qcow2-extras.ts';

export interface InfoRequest {
  readonly output: OutputForm;
  /** The backing files too. */
  readonly chain?: boolean | undefined;
}

export interface ImageInfo {
  readonly filename: string;
  readonly format: string;
  readonly virtualBytes: number;
  /** Undefined: not a file. */
  readonly actualBytes?: number | undefined;
  readonly clusterBytes?: number;
  readonly encrypted?: boolean;
  readonly dirty?: boolean;
  readonly backing?: string;
  readonly fullBacking?: string;
  readonly backingFormat?: string;
  readonly snapshots?: readonly SnapshotInfo[];
  readonly specific?: { readonly [key: string]: Json };
}

/** Options that say nothing about the content. */
const PLAIN_KEYS = ['driver', 'file', 'node-name', 'read-only', 'force-share'];

export async function infoCommand(io: ImgIo, image: ImageName, request: InfoRequest): Promise<number> {
  const infos: ImageInfo[] = [];
  const seen = new Set<string>();
  let next: ImageName | null = image;
  while (next) {
    if (seen.has(next.text)) throw new ColoError(`Backing file '${next.text}' creates an infinite loop.`);
    seen.add(next.text);
    const info: ImageInfo = await imageInfo(next);
    infos.push(info);
    next =
      request.chain && info.fullBacking !== undefined
        ? { text: info.fullBacking, format: info.backingFormat, forceShare: image.forceShare }
        : null;
  }
  if (request.output === 'human') io.out(infos.map(humanInfo).join('\n'));
  else {
    const objects = infos.map(asJson);
    io.out(`${prettyJson(request.chain ? objects : (objects[0] ?? {}))}\n`);
  }
  return 0;
}

async function imageInfo(image: ImageName): Promise<ImageInfo> {
  const graph = new BlockGraph();
  try {
    const { node, format } = await openForInfo(graph, image);
    const filename = windowName(node, image) ?? shownName(node, image.text);
    const file = format === 'qcow2' ? (node.driver.children().get('file') ?? node) : node;
    try {
      const info = format === 'qcow2' ? await qcow2Info(filename, file) : null;
      return {
        filename,
        format,
        virtualBytes: sizeInSectors(node),
        actualBytes: await actualBytes(node),
        ...info,
      };
    } catch (cause) {
      throw new ColoError(`Could not open '${image.text}': ${messageOf(cause)}`, { cause });
    }
  } finally {
    await graph.closeAll();
  }
}

/** The image, or for plain raw and qcow2 the file below it, and the format's name. */
async function openForInfo(
  graph: BlockGraph,
  image: ImageName,
): Promise<{ node: BlockNode; format: string }> {
  const options = optionsOf(image);
  const said = image.format ?? options['driver'];
  const { file } = options;
  const isPlain = said === undefined || said === 'raw' || said === 'qcow2';
  if (!isPlain || typeof file !== 'object' || Object.keys(options).some((key) => !PLAIN_KEYS.includes(key))) {
    const node = await openImage(graph, image, true);
    return { node, format: node.driver.driverName };
  }
  const node = await openImage(
    graph,
    { ...image, text: JSON_NAME + JSON.stringify(withDriver(file)), format: undefined, isOptions: false },
    true,
  ).catch((error: unknown) => {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    throw new ColoError(`Could not open '${image.text}': ${messageOf(cause)}`, { cause });
  });
  if (typeof said === 'string') return { node, format: said };
  const head = new Uint8Array(Math.min(PROBE_BYTES, node.lengthBytes));
  await node.read(0, head);
  return { node, format: probeFormat(head) };
}

const JSON_NAME = 'json:';

function optionsOf(image: ImageName): OptionTree {
  try {
    return treeOf(image);
  } catch (cause) {
    throw new ColoError(`Could not open '${image.text}': ${messageOf(cause)}`, { cause });
  }
}

/** QEMU's name of a raw image that is a part of its file. */
function windowName(node: BlockNode, image: ImageName): string | null {
  const { offset, size } = optionsOf(image);
  if (node.driver.driverName !== 'raw' || (typeof offset !== 'string' && typeof size !== 'string'))
    return null;
  const quoted = (key: string, value: string): string => `"${key}": ${JSON.stringify(value)}`;
  const members = [
    ...(typeof offset === 'string' ? [quoted('offset', offset)] : []),
    quoted('driver', 'raw'),
    ...(typeof size === 'string' ? [quoted('size', size)] : []),
    `"file": {${quoted('driver', 'file')}, ${quoted('filename', shownName(node, image.text))}}`,
  ];
  return `json:{${members.join(', ')}}`;
}

function withDriver(file: OptionTree): OptionTree {
  const { filename, ...others } = file;
  if (file['driver'] !== undefined || typeof filename !== 'string') return file;
  return { ...others, ...parseFilename(filename) };
}

/** Bytes on the disk. */
async function actualBytes(node: BlockNode): Promise<number | undefined> {
  let at: BlockNode | undefined = node;
  while (at && !(at.driver instanceof FileDriver)) at = at.driver.children().get('file');
  if (!(at?.driver instanceof FileDriver)) return undefined;
  return (await stat(at.driver.filename)).blocks * 512;
}

async function qcow2Info(filename: string, file: BlockNode): Promise<Partial<ImageInfo>> {
  const { header, extensions, backingFile, backingFormat } = await readQcow2Header(file);
  const bitmaps = await readBitmaps(file, extensions);
  const dataFile = dataFileName(extensions);
  const isV3 = header.version === 3;
  const specific: Record<string, Json> = {
    compat: isV3 ? '1.1' : '0.10',
    'compression-type': header.compressionType === 1 ? 'zstd' : 'zlib',
    'refcount-bits': 2 ** header.refcountOrder,
    ...(isV3
      ? {
          'lazy-refcounts': (header.compatible & COMPAT_LAZY_REFCOUNTS) !== 0n,
          corrupt: (header.incompatible & INCOMPAT_CORRUPT) !== 0n,
          'extended-l2': (header.incompatible & INCOMPAT_EXTENDED_L2) !== 0n,
        }
      : {}),
    ...(bitmaps.length > 0 ? { bitmaps: bitmaps.map((bitmap) => ({ ...bitmap })) } : {}),
    ...(header.cryptMethod === 1 ? { encrypt: { format: 'aes' } } : {}),
    ...(header.cryptMethod === 2 ? { encrypt: await readLuks(file, extensions) } : {}),
    ...(dataFile === null ? {} : { 'data-file': dataFile, 'data-file-raw': (header.autoclear & 2n) !== 0n }),
  };
  return {
    virtualBytes: header.sizeBytes,
    clusterBytes: 2 ** header.clusterBits,
    encrypted: header.cryptMethod !== 0,
    dirty: (header.incompatible & INCOMPAT_DIRTY) !== 0n,
    snapshots: await readSnapshots(file, header.snapshotCount),
    specific,
    ...(backingFile === null
      ? {}
      : { backing: backingFile, fullBacking: besideImage(filename, backingFile) }),
    ...(backingFormat === null || backingFile === null ? {} : { backingFormat }),
  };
}

function asJson(info: ImageInfo): Record<string, Json> {
  const snapshots = (info.snapshots ?? []).map(
    ({ id, name, vmStateBytes, dateSec, dateNsec, vmClockNsec, icount }) => ({
      id,
      name,
      'vm-state-size': vmStateBytes,
      'date-sec': dateSec,
      'date-nsec': dateNsec,
      'vm-clock-sec': Number(vmClockNsec / 1_000_000_000n),
      'vm-clock-nsec': Number(vmClockNsec % 1_000_000_000n),
      ...(icount === null ? {} : { icount: Number(icount) }),
    }),
  );
  const { clusterBytes, actualBytes: actual, backing, fullBacking, backingFormat, specific } = info;
  return {
    'virtual-size': info.virtualBytes,
    filename: info.filename,
    format: info.format,
    // A raw image on an export has nothing to tell of this.
    ...(info.dirty === undefined && actual === undefined ? {} : { 'dirty-flag': info.dirty ?? false }),
    ...(clusterBytes === undefined ? {} : { 'cluster-size': clusterBytes }),
    ...(actual === undefined ? {} : { 'actual-size': actual }),
    ...(info.encrypted ? { encrypted: true } : {}),
    ...(backing === undefined ? {} : { 'backing-filename': backing }),
    ...(fullBacking === undefined ? {} : { 'full-backing-filename': fullBacking }),
    ...(backingFormat === undefined ? {} : { 'backing-filename-format': backingFormat }),
    ...(snapshots.length > 0 ? { snapshots } : {}),
    ...(specific ? { 'format-specific': { type: info.format, data: specific } } : {}),
  };
}
