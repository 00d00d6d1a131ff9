/** `colo img info`: what an image is, for people and as JSON (QEMU qapi/block-core.json: ImageInfo). */
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { FileDriver } from '../../block/drivers/file.ts';
import { COMPAT_LAZY_REFCOUNTS, INCOMPAT_CORRUPT, INCOMPAT_DIRTY } from '../../block/drivers/qcow2/format.ts';
import { readQcow2Info } from '../../block/drivers/qcow2/open.ts';
import type { Qcow2Info } from '../../block/drivers/qcow2/open.ts';
import type { BlockNode } from '../../block/node.ts';
import { PROBE_BYTES, hasProtocol, parseFilename, probeFormat } from '../../block/probe.ts';
import { BlockGraph } from '../../block/graph.ts';
import { humanSize, print } from './common.ts';

export interface InfoRequest {
  readonly format?: string;
  readonly output: 'human' | 'json';
  readonly forceShare?: boolean;
}

interface ImageInfo {
  readonly 'virtual-size': number;
  readonly filename: string;
  readonly 'cluster-size'?: number;
  readonly format: string;
  readonly 'actual-size'?: number;
  readonly 'format-specific'?: { type: string; data: Record<string, unknown> };
  readonly 'backing-filename'?: string;
  readonly 'full-backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly 'dirty-flag': boolean;
}

/** The image itself is read, not its backing file, which may be missing. */
export async function infoCommand(name: string, request: InfoRequest): Promise<number> {
  const graph = new BlockGraph();
  try {
    const protocol = parseFilename(name);
    const share = request.forceShare ? { 'force-share': 'on' } : {};
    const node = await graph.addNode({ ...protocol, ...share, 'read-only': 'on', 'node-name': 'image' });
    const head = new Uint8Array(Math.min(PROBE_BYTES, node.lengthBytes));
    await node.read(0, head);
    const format = request.format ?? probeFormat(head);
    const info = format === 'qcow2' ? await qcow2Info(name, node) : await plainInfo(name, node, format);
    print(request.output === 'json' ? JSON.stringify(info, null, 4) : human(info));
    return 0;
  } finally {
    await graph.closeAll();
  }
}

async function actualSize(node: BlockNode): Promise<{ 'actual-size'?: number }> {
  if (!(node.driver instanceof FileDriver)) return {};
  return { 'actual-size': (await stat(node.driver.filename)).blocks * 512 };
}

async function plainInfo(name: string, node: BlockNode, format: string): Promise<ImageInfo> {
  const size = { 'virtual-size': node.lengthBytes, filename: name, format };
  return { ...size, ...(await actualSize(node)), 'dirty-flag': false };
}

async function qcow2Info(name: string, node: BlockNode): Promise<ImageInfo> {
  const info = await readQcow2Info(node, false);
  const { header, backingFile, backingFormat } = info;
  return {
    'virtual-size': header.sizeBytes,
    filename: name,
    'cluster-size': 2 ** header.clusterBits,
    format: 'qcow2',
    ...(await actualSize(node)),
    'format-specific': { type: 'qcow2', data: specific(info) },
    ...(backingFile === null
      ? {}
      : { 'backing-filename': backingFile, 'full-backing-filename': fullName(name, backingFile) }),
    ...(backingFormat === null ? {} : { 'backing-filename-format': backingFormat }),
    'dirty-flag': (header.incompatible & INCOMPAT_DIRTY) !== 0n,
  };
}

function specific({ header }: Qcow2Info): Record<string, unknown> {
  if (header.version === 2) return { compat: '0.10', 'compression-type': 'zlib', 'refcount-bits': 16 };
  return {
    compat: '1.1',
    'compression-type': 'zlib',
    'lazy-refcounts': (header.compatible & COMPAT_LAZY_REFCOUNTS) !== 0n,
    'refcount-bits': 2 ** header.refcountOrder,
    corrupt: (header.incompatible & INCOMPAT_CORRUPT) !== 0n,
    'extended-l2': false,
  };
}

function fullName(image: string, backing: string): string {
  return hasProtocol(backing) || hasProtocol(image) ? backing : resolve(dirname(image), backing);
}

function human(info: ImageInfo): string {
  const lines = [
    `image: ${info.filename}`,
    `file format: ${info.format}`,
    `virtual size: ${humanSize(info['virtual-size'])} (${info['virtual-size']} bytes)`,
    `disk size: ${info['actual-size'] === undefined ? 'unavailable' : humanSize(info['actual-size'])}`,
  ];
  if (info['cluster-size'] !== undefined) lines.push(`cluster_size: ${info['cluster-size']}`);
  const backing = info['backing-filename'];
  if (backing !== undefined) {
    const full = info['full-backing-filename'];
    lines.push(
      `backing file: ${backing}${full === undefined || full === backing ? '' : ` (actual path: ${full})`}`,
    );
  }
  if (info['backing-filename-format'] !== undefined)
    lines.push(`backing file format: ${info['backing-filename-format']}`);
  if (info['dirty-flag']) lines.push('cleanly shut down: no');
  if (info['format-specific']) {
    lines.push('Format specific information:');
    for (const [key, value] of Object.entries(info['format-specific'].data)) {
      lines.push(`    ${key.replaceAll('-', ' ')}: ${String(value)}`);
    }
  }
  return lines.join('\n');
}
