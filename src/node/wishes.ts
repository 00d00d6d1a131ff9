/** Whether a controller may begin to start its VM. */
import { randomBytes } from 'node:crypto';
import type { VmEntry } from '../ha/index.ts';
import type { ControllerParts } from './parts.ts';

/** After its own start a daemon waits so long for a member that is not heard of, milliseconds. */
const GRACE_MS = 10_000;

/** In a record's data: the VM was removed with its disks, so that its members have none. */
export const REMOVED = 'removed';

export interface MayStart {
  readonly may: boolean;
  /** Null: nothing worth telling. */
  readonly reason: string | null;
  /** Of the arbiter's record, when this host is one of those that have the disk; else null. */
  readonly memberSince: number | null;
}

const NOT_HERE: MayStart = { may: false, reason: null, memberSince: null };

/**
 * Whether this host may ask the arbiter for the right to start the VM from the disks here. The arbiter has the last word;
 * this only keeps a host from starting what runs, or is about to go on, elsewhere. Throws ArbiterUnreachableError.
 */
export async function mayStart(entry: VmEntry, parts: ControllerParts): Promise<MayStart> {
  const { name } = entry.spec;
  const { host, arbiter, disks } = parts;
  let record = await arbiter.read(name);
  if (record === null) {
    if (entry.home !== host) return NOT_HERE;
    const nonce = `${host}.first.${randomBytes(6).toString('hex')}`;
    const made = await arbiter.create(name, { nonce, holder: null, members: [host], data: {} });
    record = made.outcome === 'won' ? made.record : made.current;
    if (record === null) return NOT_HERE;
  }
  if (record.data[REMOVED] !== undefined && entry.home === host) {
    // Everything of it was removed, on purpose: it begins anew.
    const nonce = `${host}.anew.${randomBytes(6).toString('hex')}`;
    const made = await arbiter.swap(name, record, { nonce, holder: null, members: [host], data: {} });
    if (made.outcome === 'lost') return NOT_HERE;
    record = made.record;
  }
  if (!record.members.includes(host)) {
    // Told only where there is something that could be taken for the VM's disk.
    const isStale = disks.kind !== 'none';
    return {
      may: false,
      reason: isStale ? `the disk here is stale: ${record.members.join(' and ')} went on without it` : null,
      memberSince: null,
    };
  }
  const memberSince = record.epoch;
  if (disks.kind === 'none' && entry.home !== host) {
    return {
      may: false,
      memberSince,
      reason: 'the arbiter counts this host among those that have the disk, but there is none here',
    };
  }
  const others = record.members.filter((member) => member !== host);
  for (const other of others) {
    try {
      const report = await parts.peer(other).copy(name);
      if (report.isProcessAlive) return NOT_HERE;
    } catch {
      // Its registration may have run out while its copy goes on: asked first, and waited for when the daemon is young.
      if (parts.upMs() < GRACE_MS) {
        return {
          may: false,
          memberSince,
          reason: `waits for ${other}, which may have a running copy and does not answer`,
        };
      }
    }
  }
  return {
    may: true,
    memberSince,
    reason: others.length === 0 ? 'has the newest disk' : 'has a disk of the whole pair',
  };
}
