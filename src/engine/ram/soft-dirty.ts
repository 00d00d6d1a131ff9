/**
 * Which pages another process has written to since it was last asked, as the kernel tells (soft-dirty bits in
 * /proc/PID/pagemap, CONFIG_MEM_SOFT_DIRTY): a filter in front of the comparison, which alone decides what is sent.
 * Source: Linux Documentation/admin-guide/mm/soft-dirty.rst and pagemap.rst.
 *
 * The bits are those of one process's mapping of the RAM. What is written through another one (ours) does not show; page
 * by page that is what a load writes, which is noted otherwise (strips.ts). A mapping also loses a bit when the kernel
 * takes the page out of it without asking: when shared memory is swapped out, or put together to huge pages. Where
 * either can happen the bits are not used. A guest may not give memory back either (virtio-balloon), since a page that
 * became zero so was not written; the engine sees to that. PAGEMAP_SCAN's own write tracking wants a userfaultfd of the
 * process itself, which a stock QEMU does not hand out.
 *
 * Under KVM the guest writes through page tables of KVM's own; these follow the process's (the kernel announces
 * clear_refs to them as MMU_NOTIFY_SOFT_DIRTY), so its writes show too. Known from the kernel's source, not tried here.
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { ColoError, messageOf } from '../../base/errors.ts';
import { mapAnonymous, unmap, viewOf } from './memory-calls.ts';
import { PAGE_BYTES } from './ram-codec.ts';
import type { RamFile } from './ram-file.ts';

/** A page's entry of /proc/PID/pagemap, and bit 55 in its high word. */
export const ENTRY_BYTES = 8;
export const SOFT_DIRTY_HIGH = 1 << 23;
/** What clear_refs is told: soft-dirty bits. */
const CLEAR_SOFT_DIRTY = '4';

/** Where the entries of RAM's first page are. */
export interface PageEntries {
  readonly fd: number;
  readonly offset: number;
}

/** Why the kernel cannot tell at all, or null. */
export function whyNoBits(): string | null {
  try {
    return hasBits() ? null : 'the kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)';
  } catch (error) {
    return `soft-dirty bits cannot be read (${messageOf(error)})`;
  }
}

/** Why soft-dirty bits are not to be relied on here and now, or null. */
export function whyNoSoftDirty(): string | null {
  const reason = whyNoBits();
  if (reason !== null) return reason;
  try {
    if (readFileSync('/proc/swaps', 'utf8').trim().split('\n').length > 1) {
      return 'memory may be swapped out, which loses soft-dirty bits';
    }
  } catch {
    // No swapping without a table of it.
  }
  if (/\[(never|deny)\]/.test(hugeShared())) return null;
  return 'shared memory may become huge pages, which loses soft-dirty bits (transparent_hugepage/shmem_enabled)';
}

function hugeShared(): string {
  try {
    return readFileSync('/sys/kernel/mm/transparent_hugepage/shmem_enabled', 'utf8');
  } catch {
    return '[never]';
  }
}

/** A page that was just written has the bit wherever there are bits. */
function hasBits(): boolean {
  const at = mapAnonymous(PAGE_BYTES);
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    viewOf(at, PAGE_BYTES)[0] = 1;
    const entry = new Uint32Array(2);
    readSync(fd, entry, 0, ENTRY_BYTES, (Number(at) / PAGE_BYTES) * ENTRY_BYTES);
    return (entry[1]! & SOFT_DIRTY_HIGH) !== 0;
  } finally {
    closeSync(fd);
    unmap(at, PAGE_BYTES);
  }
}

/** Who can say what was written to RAM. */
export interface WriteTracker {
  readonly entries: PageEntries;
  /** From now on what is written counts. Throws when the process is gone. */
  clear(): void;
  close(): void;
}

export class SoftDirtyTracker implements WriteTracker {
  readonly entries: PageEntries;
  readonly #clearRefs: number;

  private constructor(entries: PageEntries, clearRefs: number) {
    this.entries = entries;
    this.#clearRefs = clearRefs;
  }

  /**
   * `pid` has all of `ram` mapped, and nobody else but us writes to it. Throws ColoError that says why it cannot be;
   * `reason` is what the machine has against it.
   */
  static open(pid: number, ram: RamFile, reason = whyNoSoftDirty()): SoftDirtyTracker {
    if (reason !== null) throw new ColoError(`dirty pages are found by comparison alone: ${reason}`);
    try {
      const mappedAt = findMapping(readFileSync(`/proc/${pid}/maps`, 'utf8'), fstatSync(ram.fd).ino, ram);
      const fd = openSync(`/proc/${pid}/pagemap`, 'r');
      try {
        const clearRefs = openSync(`/proc/${pid}/clear_refs`, 'w');
        return new SoftDirtyTracker({ fd, offset: (mappedAt / PAGE_BYTES) * ENTRY_BYTES }, clearRefs);
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    } catch (error) {
      throw new ColoError(
        `dirty pages are found by comparison alone: process ${pid} does not let us see (${messageOf(error)})`,
        { cause: error },
      );
    }
  }

  /** Walks all of the process's page tables; each page's next write is a page fault. */
  clear(): void {
    writeSync(this.#clearRefs, CLEAR_SOFT_DIRTY);
  }

  close(): void {
    closeSync(this.entries.fd);
    closeSync(this.#clearRefs);
  }
}

/** Where a process has the memory file, from /proc/PID/maps. Throws ColoError when it has not all of it, or twice. */
export function findMapping(
  maps: string,
  inode: number,
  { name, byteLength }: Pick<RamFile, 'name' | 'byteLength'>,
): number {
  let mappedAt: number | null = null;
  let covered = 0;
  for (const line of maps.split('\n')) {
    // start-end perms offset dev inode path; one mapping may be listed in several parts.
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ (\d+) +\/memfd:/.exec(line);
    if (!match || Number(match[5]) !== inode) continue;
    const [start, end, offset] = [match[1]!, match[2]!, match[4]!].map((text) => Number.parseInt(text, 16));
    mappedAt ??= start! - offset!;
    if (start! - offset! !== mappedAt) throw new ColoError(`guest RAM ${name} is mapped twice`);
    covered += end! - start!;
  }
  if (mappedAt === null || covered !== byteLength) throw new ColoError(`guest RAM ${name} is not mapped`);
  return mappedAt;
}
