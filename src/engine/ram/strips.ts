/**
 * The work on two equally large memories, in pieces that any thread can do: finding the pages of a strip (1 MiB) in
 * which they differ, and copying runs of pages. `ram` is the guest's, `base` the copy of it as it was when last sent or
 * received; only base's owner writes to base.
 *
 * Memory that neither has ever used is neither read nor taken: a strip is looked at extent by extent (lseek) until both
 * sides have all of it. A strip in many pieces is not worth that and is filled up by reading it.
 *
 * Measured: memcmp (Buffer.compare, which allocates nothing with offsets) over a whole strip reads 1 GiB twice in 53 ms,
 * in blocks of 64 KiB in 85 ms. A strip that had changes the last time is therefore the only one compared in blocks at
 * once.
 */
import { punchHole, seek } from './memory-calls.ts';
import { PAGE_BYTES } from './ram-codec.ts';
import { WINDOW_BYTES } from './ram-file.ts';

export const STRIP_BYTES = 1024 * 1024;
export const STRIP_PAGES = STRIP_BYTES / PAGE_BYTES;
const BLOCK_BYTES = 64 * 1024;
/** Extents of a strip after which the rest of it is read without asking. */
const MAX_EXTENTS = 8;

/** What is remembered of a strip, in one byte. */
const DENSE = 1;
const HAD_CHANGES = 2;

/** One memory as a thread sees it. */
export interface Side {
  readonly fd: number;
  readonly windows: readonly Buffer[];
}

export interface Pair {
  readonly ram: Side;
  readonly base: Side;
  readonly byteLength: number;
  /** A byte for each strip, shared between threads. */
  readonly strips: Uint8Array;
}

const ZEROS = Buffer.alloc(STRIP_BYTES);

export function stripCount(byteLength: number): number {
  return Math.ceil(byteLength / STRIP_BYTES);
}

/** Appends to `out` the pages of [from, to) that differ; `bBase` is what b's offsets are less than a's. */
function comparePieces(
  a: Buffer,
  b: Buffer,
  from: number,
  to: number,
  bOffset: number,
  firstPage: number,
  out: Uint32Array,
  count: number,
): number {
  for (let block = from; block < to; block += BLOCK_BYTES) {
    const end = Math.min(block + BLOCK_BYTES, to);
    if (a.compare(b, block - bOffset, end - bOffset, block, end) === 0) continue;
    for (let at = block; at < end; at += PAGE_BYTES) {
      const next = at + PAGE_BYTES;
      if (a.compare(b, at - bOffset, next - bOffset, at, next) !== 0) {
        out[count++] = firstPage + at / PAGE_BYTES;
      }
    }
  }
  return count;
}

/** Writes the pages of a strip that differ to `out`, ascending; returns how many. */
export function compareStrip(pair: Pair, strip: number, out: Uint32Array): number {
  const start = strip * STRIP_BYTES;
  const end = Math.min(start + STRIP_BYTES, pair.byteLength);
  // Windows are whole numbers of strips.
  const window = Math.floor(start / WINDOW_BYTES);
  const shift = window * WINDOW_BYTES;
  const ram = pair.ram.windows[window]!;
  const base = pair.base.windows[window]!;
  const flags = pair.strips[strip]!;
  let count: number;
  if ((flags & DENSE) === 0) count = compareSparse(pair, strip, ram, base, start, end, shift, out);
  else {
    const from = start - shift;
    const to = end - shift;
    if ((flags & HAD_CHANGES) === 0 && ram.compare(base, from, to, from, to) === 0) return 0;
    count = comparePieces(ram, base, from, to, 0, shift / PAGE_BYTES, out, 0);
  }
  const had = count > 0 ? HAD_CHANGES : 0;
  pair.strips[strip] = (pair.strips[strip]! & ~HAD_CHANGES) | had;
  return count;
}

function compareSparse(
  pair: Pair,
  strip: number,
  ram: Buffer,
  base: Buffer,
  start: number,
  end: number,
  shift: number,
  out: Uint32Array,
): number {
  const firstPage = shift / PAGE_BYTES;
  let count = 0;
  let extents = 0;
  for (let at = start; at < end;) {
    if (++extents > MAX_EXTENTS) {
      return comparePieces(ram, base, at - shift, end - shift, 0, firstPage, out, count);
    }
    const ramData = seek(pair.ram.fd, 'data', at, end);
    const baseData = seek(pair.base.fd, 'data', at, end);
    const from = Math.min(ramData, baseData);
    if (from >= end) break;
    const ramEnd = ramData === from ? seek(pair.ram.fd, 'hole', from, end) : ramData;
    const baseEnd = baseData === from ? seek(pair.base.fd, 'hole', from, end) : baseData;
    const to = Math.min(ramEnd, baseEnd);
    const [a, b] = [from - shift, to - shift];
    if (ramData === baseData) {
      count = comparePieces(ram, base, a, b, 0, firstPage, out, count);
      if (from === start && to === end) pair.strips[strip] = pair.strips[strip]! | DENSE;
    } else {
      // A hole is zeros, and the other side's bytes are compared with such.
      const side = ramData === from ? ram : base;
      count = comparePieces(side, ZEROS, a, b, a, firstPage, out, count);
    }
    at = to;
  }
  return count;
}

/** base has no data any more, or RAM has new holes. */
export function forgetDense(pair: Pair, fromStrip = 0, toStrip = pair.strips.length): void {
  for (let strip = fromStrip; strip < toStrip; strip++) pair.strips[strip] = pair.strips[strip]! & ~DENSE;
}

/** The end of the run of neighbours that begins at `at`: one copy does for all, but not across windows. */
function runEnd(pages: Uint32Array, at: number, end: number): number {
  const first = pages[at]!;
  const limit = Math.min(end, at + WINDOW_PAGES - (first % WINDOW_PAGES));
  let next = at + 1;
  while (next < limit && pages[next] === first + next - at) next++;
  return next;
}

const WINDOW_PAGES = WINDOW_BYTES / PAGE_BYTES;

/** Copies pages [from, to) of the list from RAM to their places in `data`, and from there to base. */
export function copyOut(pair: Pair, pages: Uint32Array, from: number, to: number, data: Buffer[]): void {
  eachRun(pages, from, to, (window, offset, length, at) => {
    // Base gets what was sent: the guest may be running, and its next write is the next change.
    eachDataPart(data, at * PAGE_BYTES, length, (part, partAt) => {
      part.set(pair.ram.windows[window]!.subarray(offset + partAt, offset + partAt + part.length));
      pair.base.windows[window]!.set(part, offset + partAt);
    });
  });
}

/** Copies what was received to base. */
export function copyIn(pair: Pair, pages: Uint32Array, from: number, to: number, data: Buffer[]): void {
  eachRun(pages, from, to, (window, offset, length, at) => {
    eachDataPart(data, at * PAGE_BYTES, length, (part, partAt) => {
      pair.base.windows[window]!.set(part, offset + partAt);
    });
  });
}

/** Copies pages from base to RAM; what is a hole there becomes one here. */
export function copyBack(pair: Pair, pages: Uint32Array, from: number, to: number): void {
  eachRun(pages, from, to, (window, offset, length) => {
    const shift = window * WINDOW_BYTES;
    const end = shift + offset + length;
    for (let at = shift + offset; at < end;) {
      const strip = Math.floor(at / STRIP_BYTES);
      const stripEnd = Math.min(end, (strip + 1) * STRIP_BYTES);
      const isDense = (pair.strips[strip]! & DENSE) !== 0;
      const data = isDense ? at : seek(pair.base.fd, 'data', at, stripEnd);
      if (data > at) {
        punchHole(pair.ram.fd, at, data - at);
        at = data;
        continue;
      }
      const next = isDense ? stripEnd : seek(pair.base.fd, 'hole', at, stripEnd);
      pair.ram.windows[window]!.set(
        pair.base.windows[window]!.subarray(at - shift, next - shift),
        at - shift,
      );
      at = next;
    }
  });
}

function eachRun(
  pages: Uint32Array,
  from: number,
  to: number,
  run: (window: number, offset: number, length: number, at: number) => void,
): void {
  for (let at = from; at < to;) {
    const next = runEnd(pages, at, to);
    const first = pages[at]!;
    const window = Math.floor(first / WINDOW_PAGES);
    run(window, (first % WINDOW_PAGES) * PAGE_BYTES, (next - at) * PAGE_BYTES, at);
    at = next;
  }
}

/** The parts of [from, from + length) of data that lies in windows. */
function eachDataPart(
  data: Buffer[],
  from: number,
  length: number,
  use: (part: Buffer, partAt: number) => void,
): void {
  for (let done = 0; done < length;) {
    const at = from + done;
    const window = data[Math.floor(at / WINDOW_BYTES)]!;
    const offset = at % WINDOW_BYTES;
    const part = Math.min(length - done, window.length - offset);
    use(window.subarray(offset, offset + part), done);
    done += part;
  }
}
