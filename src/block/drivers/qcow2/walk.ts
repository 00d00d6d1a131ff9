/** Goes through all L1 and L2 entries of an image's active state, in order. It judges nothing; check and repair do. */
import { entryOffset, viewOf } from './format.ts';
import type { Qcow2Header } from './header.ts';
import type { HostFile } from './host-file.ts';

/** A table as it is in the file, and where. Entries may be changed, see `walkTables`. */
export interface WalkedTable {
  readonly view: DataView;
  readonly offset: number;
  /** For messages. */
  readonly name: string;
}

export interface TableVisitor {
  /** An L1 entry that points somewhere. True: its table can be read, go on into it. */
  l1(table: WalkedTable, at: number, index: number): boolean;
  /** An L2 entry that is not 0. */
  l2(table: WalkedTable, at: number, index: number): void;
}

/** Calls the visitor for each entry. Entries that it changes in the view are written back. Throws IoError. */
export async function walkTables(
  file: HostFile,
  header: Readonly<Qcow2Header>,
  visitor: TableVisitor,
): Promise<void> {
  const l1Bytes = new Uint8Array(header.l1Size * 8);
  if (l1Bytes.byteLength === 0) return;
  await file.read(header.l1Offset, l1Bytes);
  const l1: WalkedTable = { view: viewOf(l1Bytes), offset: header.l1Offset, name: 'L1 table' };
  const l2Bytes = new Uint8Array(2 ** header.clusterBits);
  const view = viewOf(l2Bytes);
  for (let index = 0; index < header.l1Size; index++) {
    const at = index * 8;
    const hi = l1.view.getUint32(at);
    const lo = l1.view.getUint32(at + 4);
    if (hi === 0 && lo === 0) continue;
    const into = visitor.l1(l1, at, index);
    await writeBack(file, l1, at, hi, lo);
    if (!into) continue;
    const l2: WalkedTable = { view, offset: entryOffset(hi, lo), name: `L2 table ${index}` };
    await file.read(l2.offset, l2Bytes);
    for (let entry = 0; entry < l2Bytes.byteLength / 8; entry++) {
      const was = [view.getUint32(entry * 8), view.getUint32(entry * 8 + 4)] as const;
      if (was[0] === 0 && was[1] === 0) continue;
      visitor.l2(l2, entry * 8, entry);
      await writeBack(file, l2, entry * 8, ...was);
    }
  }
}

async function writeBack(
  file: HostFile,
  { view, offset }: WalkedTable,
  at: number,
  hi: number,
  lo: number,
): Promise<void> {
  if (view.getUint32(at) === hi && view.getUint32(at + 4) === lo) return;
  await file.write(offset + at, new Uint8Array(view.buffer, view.byteOffset + at, 8));
}
