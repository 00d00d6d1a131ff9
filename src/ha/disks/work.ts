/**
 * What is done to disk images that nobody uses: filled from a person's image, made empty, merged. Long and heavy, so it is
 * run in a process of its own (worker.ts); nothing here knows what the disks are to anybody.
 *
 * A new image appears under its name whole or not at all. Guests see qcow2 everywhere: it is sparse on any file system,
 * and the overlays of a secondary need it.
 */
import { open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { ColoError, messageOf } from '../../base/errors.ts';
import { fileErrorMessage } from '../../base/file-errors.ts';
import { copyImage } from '../../block/copy-image.ts';
import { createQcow2 } from '../../block/drivers/qcow2/create.ts';
import { INCOMPAT_CORRUPT, INCOMPAT_DIRTY } from '../../block/drivers/qcow2/format.ts';
import { Qcow2Driver } from '../../block/drivers/qcow2/qcow2.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { mergeOverlays } from './merge.ts';
import { DisksError } from './record.ts';
import { syncPath } from './record-file.ts';

export type DiskWork =
  | {
      readonly kind: 'fill';
      readonly id: string;
      readonly image: string;
      /** A person's image; null: an empty disk. */
      readonly from: string | null;
      /** null: as large as `from`. */
      readonly sizeBytes: number | null;
    }
  /** An empty image, replacing what is there. */
  | { readonly kind: 'make'; readonly id: string; readonly image: string; readonly sizeBytes: number }
  | {
      readonly kind: 'merge';
      readonly id: string;
      readonly image: string;
      readonly hidden: string;
      readonly active: string;
    }
  | { readonly kind: 'inspect'; readonly id: string; readonly image: string }
  /** Whether an overlay holds anything; it may be open elsewhere. */
  | { readonly kind: 'look-empty'; readonly id: string; readonly image: string };

export interface DiskResult {
  readonly sizeBytes: number;
  /** inspect: the image wants no repair. look-empty: it holds nothing. */
  readonly isSound: boolean;
}

export type OnBytes = (doneBytes: number, totalBytes: number) => void;

const SECTOR = 512;
const LOOK_BYTES = 2 ** 30;
/** What is told at most between two looks of the reader. */
const TELL_EVERY_BYTES = 8 * 2 ** 20;

/** Throws DisksError that names the disk and its files. */
export async function doDiskWork(work: DiskWork, onBytes: OnBytes = () => undefined): Promise<DiskResult> {
  const graph = new BlockGraph();
  try {
    switch (work.kind) {
      case 'fill':
        return await fill(graph, work, onBytes);
      case 'make':
        return await make(work);
      case 'merge':
        return await merge(graph, work, onBytes);
      case 'inspect':
        return await inspect(graph, work);
      case 'look-empty':
        return await lookEmpty(graph, work);
    }
  } catch (error) {
    throw new DisksError(`${work.id}: ${work.image} ${FAILED[work.kind]}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    await graph.closeAll().catch(() => undefined);
  }
}

const FAILED: Readonly<Record<DiskWork['kind'], string>> = {
  fill: 'cannot be filled',
  make: 'cannot be made',
  merge: 'cannot be merged with its overlays',
  inspect: 'cannot be used',
  'look-empty': 'cannot be looked into',
};

async function fill(
  graph: BlockGraph,
  work: Extract<DiskWork, { kind: 'fill' }>,
  onBytes: OnBytes,
): Promise<DiskResult> {
  const from = work.from === null ? null : await openSource(graph, work.from);
  const contentBytes = from ? Math.ceil(from.lengthBytes / SECTOR) * SECTOR : 0;
  const sizeBytes = Math.ceil((work.sizeBytes ?? contentBytes) / SECTOR) * SECTOR;
  if (sizeBytes === 0) throw new ColoError('neither an image nor a size is given, so it would have no bytes');
  if (sizeBytes < contentBytes) {
    throw new ColoError(
      `it is to have ${sizeBytes} bytes, and ${work.from ?? ''} has ${contentBytes}: nothing is cut off; ` +
        'give it at least that size',
    );
  }
  await publish(work.image, async (fresh) => {
    await createQcow2(fresh, { sizeBytes });
    if (!from) return;
    const to = await graph.openImage(fresh, { format: 'qcow2' });
    await copyImage(from, to, contentBytes, {
      targetIsZero: true,
      onProgress: throttled(contentBytes, onBytes),
    });
    await to.flush();
    await graph.closeImage(to);
  });
  return { sizeBytes, isSound: true };
}

async function make({ image, sizeBytes }: Extract<DiskWork, { kind: 'make' }>): Promise<DiskResult> {
  await publish(image, (fresh) => createQcow2(fresh, { sizeBytes }));
  return { sizeBytes, isSound: true };
}

async function merge(
  graph: BlockGraph,
  work: Extract<DiskWork, { kind: 'merge' }>,
  onBytes: OnBytes,
): Promise<DiskResult> {
  const add = (name: string, filename: string, backing: string): Promise<BlockNode> =>
    graph.addNode({
      'node-name': name,
      driver: 'qcow2',
      file: { driver: 'file', filename },
      backing,
      ...(backing !== '' && { 'read-only': 'on' }),
    });
  const image = await add('image', work.image, '');
  await add('hidden', work.hidden, 'image');
  const active = await add('active', work.active, 'hidden');
  await mergeOverlays(active, image, throttled(image.lengthBytes, onBytes));
  return { sizeBytes: image.lengthBytes, isSound: true };
}

/** Looks at the header only. */
async function inspect(
  graph: BlockGraph,
  { image }: Extract<DiskWork, { kind: 'inspect' }>,
): Promise<DiskResult> {
  const node = await graph.openImage(image, { format: 'qcow2', readOnly: true });
  const { driver, lengthBytes: sizeBytes } = node;
  const wantsRepair = INCOMPAT_DIRTY | INCOMPAT_CORRUPT;
  return {
    sizeBytes,
    isSound: driver instanceof Qcow2Driver && (driver.header.incompatible & wantsRepair) === 0n,
  };
}

async function lookEmpty(
  graph: BlockGraph,
  { image }: Extract<DiskWork, { kind: 'look-empty' }>,
): Promise<DiskResult> {
  const node = await graph.openImage(image, {
    format: 'qcow2',
    readOnly: true,
    forceShare: true,
    backing: '',
  });
  const { lengthBytes: sizeBytes } = node;
  for (let at = 0; at < sizeBytes; at += LOOK_BYTES) {
    const extents = await node.blockStatus(at, Math.min(LOOK_BYTES, sizeBytes - at));
    if (extents.some(({ allocated }) => allocated)) return { sizeBytes, isSound: false };
  }
  return { sizeBytes, isSound: true };
}

/** Formats that are not read here, and would be taken for raw disks. */
const FOREIGN: readonly { readonly at: number; readonly magic: string; readonly name: string }[] = [
  { at: 0, magic: 'KDMV', name: 'VMDK' },
  { at: 0, magic: '# Disk DescriptorFile', name: 'VMDK' },
  { at: 0, magic: 'vhdxfile', name: 'VHDX' },
  { at: 0, magic: 'conectix', name: 'VHD' },
  { at: 0, magic: 'QED\0', name: 'QED' },
  { at: 0, magic: 'LUKS', name: 'LUKS' },
  { at: 0x40, magic: '\x7f\x10\xda\xbe', name: 'VDI' },
];

async function openSource(graph: BlockGraph, name: string): Promise<BlockNode> {
  const head = Buffer.alloc(SECTOR);
  try {
    const handle = await open(name, 'r');
    try {
      if (!(await handle.stat()).isDirectory()) await handle.read(head, 0, SECTOR, 0);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw new ColoError(`${name}: ${fileErrorMessage(error)}`, { cause: error });
  }
  const foreign = FOREIGN.find(({ at, magic }) => head.toString('latin1', at, at + magic.length) === magic);
  if (foreign) {
    throw new ColoError(
      `${name} is a ${foreign.name} image, which is not read here: qemu-img convert -O qcow2 makes one that is`,
    );
  }
  return graph.openImage(path.resolve(name), { readOnly: true });
}

/** Writes a file beside `name`, then puts it there. */
async function publish(name: string, write: (fresh: string) => Promise<void>): Promise<void> {
  const fresh = `${name}.new`;
  await rm(fresh, { force: true });
  try {
    await write(fresh);
    await syncPath(fresh);
    await rename(fresh, name);
    await syncPath(path.dirname(name));
  } catch (error) {
    await rm(fresh, { force: true }).catch(() => undefined);
    throw error;
  }
}

function throttled(totalBytes: number, onBytes: OnBytes): (done: number) => void {
  let told = 0;
  return (done) => {
    if (done - told < TELL_EVERY_BYTES && done < totalBytes) return;
    told = done;
    onBytes(done, totalBytes);
  };
}
