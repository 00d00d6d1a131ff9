/**
 * disks.json: replaced whole, so that a power failure leaves the old one or the new one. Written anew beside it, synced,
 * renamed over it, and the folder synced.
 */
import { open, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { fileErrorMessage } from '../../base/file-errors.ts';
import {
  DisksError,
  MAX_DISKS_RECORD_BYTES,
  NO_DISKS,
  decodeDisks,
  encodeDisks,
  type DisksRecord,
} from './record.ts';

export const DISKS_FILE = 'disks.json';

/** NO_DISKS where there is none. Throws DisksError. */
export async function readDisks(folder: string, vm: string): Promise<DisksRecord> {
  const file = path.join(folder, DISKS_FILE);
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > MAX_DISKS_RECORD_BYTES) throw new DisksError(`${file}: too large to be a record of disks`);
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return NO_DISKS;
    if (error instanceof DisksError) throw error;
    throw new DisksError(`${file}: ${fileErrorMessage(error)}`, { cause: error });
  }
  return decodeDisks(text, vm, file);
}

/** Throws DisksError; then the old one stands. */
export async function writeDisks(folder: string, vm: string, record: DisksRecord): Promise<void> {
  const file = path.join(folder, DISKS_FILE);
  const fresh = `${file}.new`;
  try {
    const handle = await open(fresh, 'w', 0o600);
    try {
      await handle.writeFile(encodeDisks(vm, record));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(fresh, file);
    await syncPath(folder);
  } catch (error) {
    await rm(fresh, { force: true }).catch(() => undefined);
    throw new DisksError(`${file} cannot be written: ${fileErrorMessage(error)}`, { cause: error });
  }
}

/** Puts a file or a folder on stable storage, whoever wrote to it. */
export async function syncPath(name: string): Promise<void> {
  const handle = await open(name, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
