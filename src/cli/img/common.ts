/**
 * What the commands of `colo img` share: images opened by name or by options with qemu-img's failure texts, sizes in
 * whole sectors as QEMU sees them, and the options that most commands have (--image-opts, -T, -U, --output, --object).
 */
import { ColoError, ParameterError, messageOf } from '../../base/errors.ts';
import type { BlockExtent } from '../../block/driver.ts';
import { FileDriver } from '../../block/drivers/file.ts';
import type { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { nestOptions } from '../../block/options.ts';
import type { OptionTree } from '../../block/options.ts';
import { parseFilename } from '../../block/probe.ts';

export const SECTOR = 512;
const SIZE_TOO_LARGE = BigInt(Number.MAX_SAFE_INTEGER);

/** An image as the command line names it. */
export interface ImageName {
  /** A file name, or with `isOptions` the text of --image-opts. */
  readonly text: string;
  readonly format?: string | undefined;
  readonly isOptions?: boolean | undefined;
  readonly forceShare?: boolean | undefined;
  /** A cache mode (-t, -T). */
  readonly cache?: string | undefined;
}

export type OutputForm = 'human' | 'json';

let nextNode = 0;

/** Opens an image. Throws ColoError, `Could not open 'X': …`. */
export async function openImage(graph: BlockGraph, image: ImageName, readOnly: boolean): Promise<BlockNode> {
  try {
    const options = treeOf(image);
    if (image.format !== undefined) options['driver'] = image.format;
    if (readOnly) options['read-only'] ??= 'on';
    if (image.forceShare) options['force-share'] = 'on';
    options['node-name'] ??= `image${nextNode++}`;
    if (image.cache === 'none' || image.cache === 'directsync') options['cache'] = { direct: 'on' };
    return await graph.addNode(options);
  } catch (cause) {
    throw new ColoError(`Could not open '${image.text}': ${messageOf(cause)}`, { cause });
  }
}

/** The option tree that an image's name stands for, format not yet chosen. Throws ParameterError. */
export function treeOf(image: ImageName): OptionTree {
  if (image.text === '') throw new ParameterError("The 'file' block driver requires a file name");
  if (image.isOptions) return nestOptions(splitOptions(image.text));
  const named = parseFilename(image.text);
  return image.text.startsWith('json:') ? named : { file: named };
}

/** `a=1,b=x,,y` → a: `1`, b: `x,y`. A lone word is `on`. Throws ParameterError. */
export function splitOptions(text: string): Record<string, string> {
  const flat: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const item of splitItems(text)) {
    const at = item.indexOf('=');
    if (at === 0) throw new ParameterError(`Invalid parameter '${item}'`);
    flat[at < 0 ? item : item.slice(0, at)] = at < 0 ? 'on' : item.slice(at + 1);
  }
  return flat;
}

/** The items of a list with commas between them; a doubled comma is one of an item. */
export function splitItems(text: string): string[] {
  const items = text.match(/(?:[^,]|,,)+/g) ?? [];
  return items.map((item) => item.replaceAll(',,', ','));
}

/** QEMU counts in sectors: the rest of the last one reads as zeros. */
export function sizeInSectors(node: BlockNode): number {
  return Math.ceil(node.lengthBytes / SECTOR) * SECTOR;
}

/** As the node's own, up to the end of the last sector. */
export async function statusPadded(node: BlockNode, offset: number, length: number): Promise<BlockExtent[]> {
  const there = Math.max(0, Math.min(length, node.lengthBytes - offset));
  const extents = there > 0 ? await node.blockStatus(offset, there, true) : [];
  if (there === length) return extents;
  const last = extents.at(-1);
  const file = node.driver.driverName === 'raw' ? node.driver.children().get('file') : undefined;
  const map = last?.map
    ? { file: last.map.file, offset: last.map.offset + last.length }
    : file && { file, offset: offset + there };
  const rest = {
    offset: offset + there,
    length: length - there,
    zero: true,
    data: false,
    allocated: true,
    map,
  };
  return [...extents, rest];
}

/** As the node's own, up to the end of the last sector. */
export async function readPadded(node: BlockNode, offset: number, target: Uint8Array): Promise<void> {
  const there = Math.max(0, Math.min(target.byteLength, node.lengthBytes - offset));
  if (there > 0) await node.read(offset, target.subarray(0, there));
  if (there < target.byteLength) target.fill(0, there);
}

/** The name that QEMU would give the image: the file's own below plain formats, an NBD export's URI, else what was said. */
export function shownName(node: BlockNode, said: string): string {
  let at: BlockNode | undefined = node;
  while (at && !(at.driver instanceof FileDriver)) at = at.driver.children().get('file');
  if (at?.driver instanceof FileDriver) return at.driver.filename;
  return /^nbd(?:\+tcp|\+unix)?:/.test(said) ? exportUri(parseFilename(said), said) : said;
}

/** An NBD export as QEMU writes it, whatever the spelling (QEMU block/nbd.c, nbd_refresh_filename). */
function exportUri({ server, export: name }: OptionTree, said: string): string {
  const path = typeof name === 'string' ? `/${name}` : '';
  if (typeof server !== 'object') return said;
  const { type, path: socket, host, port } = server;
  if (type === 'unix') return typeof socket === 'string' ? `nbd+unix://${path}?socket=${socket}` : said;
  return typeof host === 'string' && typeof port === 'string' ? `nbd://${host}:${port}${path}` : said;
}

/** A size as a number of bytes. Throws ColoError when it is larger than any image can be here. */
export function safeBytes(bytes: bigint, what: string): number {
  if (bytes > SIZE_TOO_LARGE) throw new ColoError(what);
  return Number(bytes);
}

/** Options that exclude each other, and `--object`, which nothing here has a use for. Throws ParameterError. */
export function checkShared(flags: {
  readonly object?: unknown;
  readonly imageOpts?: boolean;
  readonly format?: string | undefined;
}): void {
  if (flags.object !== undefined) {
    throw new ParameterError(
      '--object is not supported: encrypted images and secrets cannot be used; leave it out',
    );
  }
  if (flags.imageOpts && flags.format !== undefined)
    throw new ParameterError('--image-opts and --format are mutually exclusive');
}

/** Throws ParameterError for what is neither `human` nor `json`. */
export function outputForm(text: string | undefined): OutputForm {
  if (text === undefined || text === 'human') return 'human';
  if (text === 'json') return 'json';
  throw new ParameterError('--output must be used with human or json as argument.');
}

/** Throws ParameterError for words that are no cache mode. What the block layer cannot honour it refuses itself. */
export function checkCacheMode(mode: string | undefined, isSource: boolean): void {
  if (mode === undefined) return;
  if (['none', 'off', 'writeback', 'writethrough', 'directsync', 'unsafe'].includes(mode)) return;
  throw new ParameterError(`Invalid ${isSource ? 'source ' : ''}cache option: ${mode}`);
}
