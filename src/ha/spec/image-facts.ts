/** What an image is, found out without changing it and without a lock: somebody else may have it open. */
import { constants } from 'node:fs';
import { access, open, stat } from 'node:fs/promises';
import { messageOf } from '../../base/errors.ts';
import { BlockGraph } from '../../block/graph.ts';
import { PROBE_BYTES, probeFormat } from '../../block/probe.ts';
import type { HostFacts } from './facts.ts';

const SECTOR_BYTES = 512;

/** First bytes of formats that are not read; they would pass for raw. */
const FOREIGN: readonly (readonly [format: string, at: number, bytes: string])[] = [
  ['VMDK', 0, 'KDMV'],
  ['VMDK', 0, '# Disk DescriptorFile'],
  ['VHDX', 0, 'vhdxfile'],
  ['VHD', 0, 'conectix'],
  ['VDI', 0x40, '\x7f\x10\xda\xbe'],
  ['QED', 0, 'QED\0'],
];

/** Null: there is to be none. Never throws. */
export async function imageFacts(file: string | undefined): Promise<HostFacts['images'][number]> {
  if (file === undefined) return null;
  const wrong = (trouble: string): HostFacts['images'][number] => ({
    ...{ format: '', virtualBytes: 0, actualBytes: 0, trouble },
  });
  try {
    const info = await stat(file);
    if (info.isDirectory()) return wrong(`${file} is a folder, not an image`);
    await access(file, constants.R_OK);
    const head = await headOf(file);
    const foreign = FOREIGN.find(([, at, bytes]) => head.toString('latin1', at, at + bytes.length) === bytes);
    if (foreign)
      return wrong(`${file} is ${foreign[0]}; convert it first: qemu-img convert -O qcow2 ${file} NEW`);
    const graph = new BlockGraph();
    const node = await graph.openImage(file, { readOnly: true, forceShare: true });
    try {
      const virtualBytes = node.lengthBytes;
      if (virtualBytes < SECTOR_BYTES) return wrong(`${file} is empty`);
      const actualBytes = (await node.driver.allocatedBytes?.()) ?? info.blocks * SECTOR_BYTES;
      return { format: probeFormat(head), virtualBytes, actualBytes, trouble: null };
    } finally {
      await graph.closeImage(node);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return wrong(`there is no ${file}`);
    if (code === 'EACCES') return wrong(`${file} may not be read by this user; change its permissions`);
    return wrong(`${file} cannot be read: ${messageOf(error)}`);
  }
}

async function headOf(file: string): Promise<Buffer> {
  const handle = await open(file, 'r');
  try {
    const head = Buffer.alloc(PROBE_BYTES);
    const { bytesRead } = await handle.read(head, 0, head.length, 0);
    return head.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
