/**
 * One job on guest RAM as all threads see it: what is to be done, and how far it has come, in shared memory. Each thread
 * takes the next piece from a counter until there is none, so that threads that are slower do less.
 */
import { readSync } from 'node:fs';
import { viewOf } from './memory-calls.ts';
import { WINDOW_BYTES, windowsOf } from './ram-file.ts';
import type { MappedMemory } from './ram-file.ts';
import { ENTRY_BYTES, SOFT_DIRTY_HIGH } from './soft-dirty.ts';
import { copyBack, copyIn, copyOut, MARK_WORDS, STRIP_PAGES, StripComparer, stripCount } from './strips.ts';
import type { PageFilter, Pair, StripNotes } from './strips.ts';

/** Pages of a list that a thread takes at once. */
const CHUNK_PAGES = 64;

export const JOB = { compare: 0, copyOut: 1, copyIn: 2, copyBack: 3 } as const;
export type JobKind = keyof typeof JOB;

/** Slots of `control`. GENERATION is what workers wait on. */
export const GENERATION = 0;
export const NEXT = 1;
export const FINISHED = 2;
export const KIND = 3;
/** Pages in the list; when comparing, the strip to stop before. */
export const COUNT = 4;
/** Comparing: the file descriptor of page entries (soft-dirty.ts), or -1. */
export const ENTRIES = 5;
const CONTROL_SLOTS = 8;

/** Slots of `buffer`: the memory with the pages' bytes. */
export const BUFFER_ADDRESS = 0;
export const BUFFER_LENGTH = 1;
/** Where RAM's page entries begin in their file. */
export const ENTRIES_OFFSET = 2;
const BUFFER_SLOTS = 4;

export interface Shared {
  readonly control: Int32Array<SharedArrayBuffer>;
  readonly buffer: BigUint64Array<SharedArrayBuffer>;
  /** Compare: what each strip has found, from its own first page on. Copies: the list, ascending. */
  readonly pages: Uint32Array<SharedArrayBuffer>;
  /** How many pages each strip has found. */
  readonly counts: Uint16Array<SharedArrayBuffer>;
  readonly notes: StripNotes;
}

export interface WorkerStart {
  readonly shared: Shared;
  readonly ram: MappedMemory;
  readonly base: MappedMemory;
  readonly threads: number;
}

export function createShared(byteLength: number): Shared {
  const strips = stripCount(byteLength);
  return {
    control: new Int32Array(new SharedArrayBuffer(CONTROL_SLOTS * Int32Array.BYTES_PER_ELEMENT)),
    buffer: new BigUint64Array(new SharedArrayBuffer(BUFFER_SLOTS * BigUint64Array.BYTES_PER_ELEMENT)),
    pages: new Uint32Array(new SharedArrayBuffer(strips * STRIP_PAGES * Uint32Array.BYTES_PER_ELEMENT)),
    counts: new Uint16Array(new SharedArrayBuffer(strips * Uint16Array.BYTES_PER_ELEMENT)),
    notes: {
      data: new Uint32Array(new SharedArrayBuffer(strips * Uint32Array.BYTES_PER_ELEMENT)),
      changed: new Uint8Array(new SharedArrayBuffer(strips)),
      marks: new Uint32Array(new SharedArrayBuffer(strips * MARK_WORDS * Uint32Array.BYTES_PER_ELEMENT)),
    },
  };
}

/** This thread's views of both memories. */
export function pairOf(start: Omit<WorkerStart, 'threads'>): Pair {
  const { ram, base, shared } = start;
  return {
    ram: { fd: ram.fd, windows: windowsOf(ram) },
    base: { fd: base.fd, windows: windowsOf(base) },
    byteLength: ram.byteLength,
    notes: shared.notes,
  };
}

/** Does pieces of the job until none is left. */
export function takePart(shared: Shared, pair: Pair): void {
  const { control, pages } = shared;
  const kind = Atomics.load(control, KIND);
  const count = Atomics.load(control, COUNT);
  if (kind === JOB.compare) {
    const comparer = new StripComparer(pair, entryFilter(shared));
    for (;;) {
      const strip = Atomics.add(control, NEXT, 1);
      if (strip >= count) return;
      const out = pages.subarray(strip * STRIP_PAGES, (strip + 1) * STRIP_PAGES);
      shared.counts[strip] = comparer.compare(strip, out);
    }
  }
  const data = kind === JOB.copyBack ? [] : bufferWindows(shared);
  for (;;) {
    const from = Atomics.add(control, NEXT, CHUNK_PAGES);
    if (from >= count) return;
    const to = Math.min(from + CHUNK_PAGES, count);
    if (kind === JOB.copyOut) copyOut(pair, pages, from, to, data);
    else if (kind === JOB.copyIn) copyIn(pair, pages, from, to, data);
    else copyBack(pair, pages, from, to);
  }
}

function bufferWindows({ buffer }: Shared): Buffer[] {
  const address = buffer[BUFFER_ADDRESS]!;
  const byteLength = Number(buffer[BUFFER_LENGTH]);
  if (byteLength <= WINDOW_BYTES) return [viewOf(address, byteLength)];
  return windowsOf({ fd: -1, address, byteLength });
}

/** The pages that the job's page entries call written. */
function entryFilter({ control, buffer }: Shared): PageFilter | null {
  const fd = Atomics.load(control, ENTRIES);
  if (fd < 0) return null;
  const offset = Number(buffer[ENTRIES_OFFSET]);
  const entries = new Uint32Array((STRIP_PAGES * ENTRY_BYTES) / Uint32Array.BYTES_PER_ELEMENT);
  return {
    addWritten(strip, pages, marks) {
      const length = pages * ENTRY_BYTES;
      // A process that has ended has no entries.
      if (readSync(fd, entries, 0, length, offset + strip * STRIP_PAGES * ENTRY_BYTES) !== length)
        return false;
      for (let page = 0; page < pages; page++) {
        if ((entries[page * 2 + 1]! & SOFT_DIRTY_HIGH) !== 0) marks[page >>> 5]! |= 1 << (page & 31);
      }
      return true;
    },
  };
}
