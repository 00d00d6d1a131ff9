/**
 * The main thread's side of the disk bridge: carries a worker's requests out on the EngineDisks. A request that fails
 * becomes an I/O error of the guest's drive; why is logged here, as the guest cannot be told.
 */
import { IoError, messageOf } from '../../base/errors.ts';
import type { Logger } from '../../base/logger.ts';
import type { EngineDisk } from '../engine.ts';
import type { DiskOp } from './protocol.ts';

/** Far above what v86 asks for at once (65536 sectors). */
const MAX_REQUEST_BYTES = 64 * 1024 * 1024;

export interface DiskRequest {
  readonly disk: number;
  readonly op: DiskOp;
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | null;
}

/** Returns the bytes of a read, null for the rest. Rejects with the disk's error. */
async function carryOut(disk: EngineDisk, request: DiskRequest): Promise<Uint8Array<ArrayBuffer> | null> {
  const { op, offset, length, data } = request;
  if (op === 'flush') {
    await disk.flush();
    return null;
  }
  if (offset < 0 || length < 0 || length > MAX_REQUEST_BYTES || offset + length > disk.lengthBytes) {
    throw new IoError('EINVAL', `${length} bytes at ${offset} lie outside of the disk`);
  }
  if (op === 'read' || op === 'probe') {
    const target = new Uint8Array(length);
    await disk.read(offset, target);
    return target;
  }
  if (disk.readOnly) throw new IoError('EROFS', 'the disk is read-only');
  if (!data) throw new IoError('EINVAL', 'a write without data');
  await disk.write(offset, data);
  return null;
}

export async function serveDisk(
  disks: readonly EngineDisk[],
  request: DiskRequest,
  log: Logger,
): Promise<{ ok: boolean; data: Uint8Array<ArrayBuffer> | null }> {
  const disk = disks[request.disk];
  try {
    if (!disk) throw new IoError('EINVAL', 'no such disk');
    return { ok: true, data: await carryOut(disk, request) };
  } catch (error) {
    const { op, offset, length } = request;
    if (op === 'probe') return { ok: false, data: null };
    log.warn(
      { disk: disk?.id, op, offset, length },
      `disk request failed, the guest sees an I/O error: ${messageOf(error)}`,
    );
    return { ok: false, data: null };
  }
}
