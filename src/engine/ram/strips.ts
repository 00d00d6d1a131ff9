/**
 * The work on two equally large memories, in pieces that any thread can do: finding the pages of a strip (1 MiB) in
 * which they differ, and copying runs of pages. `ram` is the guest's, `base` the copy of it as it was when last sent or
 * received; only we write to base.
 *
 * Memory that neither has ever used is neither read nor taken. Which blocks (64 KiB) of a strip have data is remembered:
 * base's when they are written, RAM's as lseek finds them. A block with data is read whole, which fills its holes. Only
 * the search for data is asked for: a search for a hole reads on to the end of the data, however long that is.
 *
 * Measured: memcmp (Buffer.compare, which allocates nothing with offsets) over a whole strip reads 1 GiB twice in 53 ms,
 * in blocks of 64 KiB in 85 ms. A strip that had changes the last time is therefore the only one compared in blocks at
 * once.
 */
import { nextData, punchHole } from './memory-calls.ts';
import { PAGE_BYTES } from './ram-codec.ts';
import { WINDOW_BYTES } from './ram-file.ts';

export const STRIP_BYTES = 1024 * 1024;
export const STRIP_PAGES = STRIP_BYTES / PAGE_BYTES;
const BLOCK_BYTES = 64 * 1024;
const STRIP_BLOCKS = STRIP_BYTES / BLOCK_BYTES;
export const MARK_WORDS = STRIP_PAGES / 32;
const WINDOW_PAGES = WINDOW_BYTES / PAGE_BYTES;

/** One memory as a thread sees it. */
export interface Side {
  readonly fd: number;
  readonly windows: readonly Buffer[];
}

/** What all threads remember of the strips. */
export interface StripNotes {
  /** For each strip, which of its blocks have data: RAM's in the low 16 bits, base's in the high ones. */
  readonly data: Uint32Array;
  /** Whether it had changes when it was last compared. */
  readonly changed: Uint8Array;
  /** A bit for each page that base was given since it was last compared, MARK_WORDS words for each strip. */
  readonly marks: Uint32Array;
}

/** Says which pages of a strip may have been written; false when it cannot, and all must be compared. */
export interface PageFilter {
  addWritten(strip: number, pages: number, marks: Uint32Array): boolean;
}

export interface Pair {
  readonly ram: Side;
  readonly base: Side;
  readonly byteLength: number;
  readonly notes: StripNotes;
}

const ZEROS = Buffer.alloc(STRIP_BYTES);

export function stripCount(byteLength: number): number {
  return Math.ceil(byteLength / STRIP_BYTES);
}

/** Compares strips for as long as one job takes. */
export class StripComparer {
  readonly #pair: Pair;
  readonly #filter: PageFilter | null;
  readonly #suspects = new Uint32Array(MARK_WORDS);
  /** RAM has no data from #hole to #holeEnd, as far as this job is concerned. */
  #hole = 0;
  #holeEnd = 0;
  #out: Uint32Array = new Uint32Array(0);
  #count = 0;

  constructor(pair: Pair, filter: PageFilter | null = null) {
    this.#pair = pair;
    this.#filter = filter;
  }

  /** Writes the pages of a strip that differ to `out`, ascending; returns how many. */
  compare(strip: number, out: Uint32Array): number {
    const { notes, byteLength } = this.#pair;
    const start = strip * STRIP_BYTES;
    const end = Math.min(start + STRIP_BYTES, byteLength);
    this.#out = out;
    this.#count = 0;
    const blocks = Math.ceil((end - start) / BLOCK_BYTES);
    const all = (1 << blocks) - 1;
    const base = notes.data[strip]! >>> STRIP_BLOCKS;
    let ram = notes.data[strip]! & 0xffff;
    const isFiltered = this.#findSuspects(strip, (end - start) / PAGE_BYTES);
    if (isFiltered && this.#suspects.every((word) => word === 0)) {
      notes.changed[strip] = 0;
      return 0;
    }
    if (ram !== all) ram = this.#findData(strip, ram, start, end);
    if (isFiltered) this.#compareSuspects(start, ram, base);
    else if ((ram | base) !== 0) this.#compareStrip(start, end, ram, base, all, notes.changed[strip] === 1);
    notes.changed[strip] = this.#count > 0 ? 1 : 0;
    return this.#count;
  }

  /** Takes over the marks, and adds what the filter says. False when there is none, or it cannot tell. */
  #findSuspects(strip: number, pages: number): boolean {
    const marks = this.#pair.notes.marks.subarray(strip * MARK_WORDS, (strip + 1) * MARK_WORDS);
    this.#suspects.set(marks);
    marks.fill(0);
    return this.#filter?.addWritten(strip, pages, this.#suspects) ?? false;
  }

  #compareSuspects(start: number, ram: number, base: number): void {
    const window = Math.floor(start / WINDOW_BYTES);
    const shift = window * WINDOW_BYTES;
    const [a, b] = [this.#pair.ram.windows[window]!, this.#pair.base.windows[window]!];
    for (let word = 0; word < MARK_WORDS; word++) {
      for (let bits = this.#suspects[word]!; bits !== 0; bits &= bits - 1) {
        const page = word * 32 + (31 - Math.clz32(bits & -bits));
        const block = 1 << Math.floor((page * PAGE_BYTES) / BLOCK_BYTES);
        const at = start - shift + page * PAGE_BYTES;
        this.#compareSides(
          a,
          b,
          (ram & block) !== 0,
          (base & block) !== 0,
          at,
          at + PAGE_BYTES,
          shift / PAGE_BYTES,
        );
      }
    }
  }

  /** Notes the blocks in which RAM has data by now. */
  #findData(strip: number, known: number, start: number, end: number): number {
    if (start >= this.#hole && end <= this.#holeEnd) return known;
    let found = known;
    for (let block = 0; start + block * BLOCK_BYTES < end; block++) {
      if ((found & (1 << block)) !== 0) continue;
      const at = start + block * BLOCK_BYTES;
      const data = nextData(this.#pair.ram.fd, at, this.#pair.byteLength);
      if (data >= end) {
        this.#hole = at;
        this.#holeEnd = data;
        break;
      }
      block = Math.floor((data - start) / BLOCK_BYTES);
      found |= 1 << block;
    }
    if (found !== known) Atomics.or(this.#pair.notes.data, strip, found);
    return found;
  }

  #compareStrip(
    start: number,
    end: number,
    ram: number,
    base: number,
    all: number,
    wasChanged: boolean,
  ): void {
    // Windows are whole numbers of strips.
    const window = Math.floor(start / WINDOW_BYTES);
    const shift = window * WINDOW_BYTES;
    const [from, to] = [start - shift, end - shift];
    const [a, b] = [this.#pair.ram.windows[window]!, this.#pair.base.windows[window]!];
    if (!wasChanged && ram === all) {
      if (base === all && a.compare(b, from, to, from, to) === 0) return;
      if (base === 0 && a.compare(ZEROS, 0, to - from, from, to) === 0) return;
    }
    const firstPage = shift / PAGE_BYTES;
    for (let at = from, bit = 1; at < to; at += BLOCK_BYTES, bit <<= 1) {
      const blockEnd = Math.min(at + BLOCK_BYTES, to);
      this.#compareSides(a, b, (ram & bit) !== 0, (base & bit) !== 0, at, blockEnd, firstPage);
    }
  }

  /** What has no data is zeros, and the other one is compared with such. */
  #compareSides(
    ram: Buffer,
    base: Buffer,
    hasRam: boolean,
    hasBase: boolean,
    from: number,
    to: number,
    firstPage: number,
  ): void {
    if (hasRam && hasBase) this.#compareBlock(ram, base, 0, from, to, firstPage);
    else if (hasRam) this.#compareBlock(ram, ZEROS, from, from, to, firstPage);
    else if (hasBase) this.#compareBlock(base, ZEROS, from, from, to, firstPage);
  }

  /** The byte of `a` at an offset belongs to the one of `b` that is `less` before it. */
  #compareBlock(a: Buffer, b: Buffer, less: number, from: number, to: number, firstPage: number): void {
    if (a.compare(b, from - less, to - less, from, to) === 0) return;
    for (let at = from; at < to; at += PAGE_BYTES) {
      const next = at + PAGE_BYTES;
      if (a.compare(b, at - less, next - less, at, next) !== 0) {
        this.#out[this.#count++] = firstPage + at / PAGE_BYTES;
      }
    }
  }
}

/** Base has no data any more. */
export function forgetBase({ data }: StripNotes): void {
  for (let strip = 0; strip < data.length; strip++) data[strip] = data[strip]! & 0xffff;
}

/** Notes that base has data in the blocks of a range. */
function noteBase(notes: StripNotes, window: number, offset: number, length: number): void {
  const start = window * WINDOW_BYTES + offset;
  const last = Math.floor((start + length - 1) / BLOCK_BYTES);
  for (let block = Math.floor(start / BLOCK_BYTES); block <= last; block++) {
    const bit = 1 << (STRIP_BLOCKS + (block % STRIP_BLOCKS));
    const strip = Math.floor(block / STRIP_BLOCKS);
    if ((notes.data[strip]! & bit) === 0) Atomics.or(notes.data, strip, bit);
  }
}

/** What the page is differs from what anybody else knows of it: it is compared the next time. */
export function mark({ marks }: StripNotes, page: number): void {
  Atomics.or(marks, Math.floor(page / 32), 1 << (page % 32));
}

/** The end of the run of neighbours that begins at `at`: one copy does for all, but not across windows. */
function runEnd(pages: Uint32Array, at: number, end: number): number {
  const first = pages[at]!;
  const limit = Math.min(end, at + WINDOW_PAGES - (first % WINDOW_PAGES));
  let next = at + 1;
  while (next < limit && pages[next] === first + next - at) next++;
  return next;
}

/** Copies pages [from, to) of the list from RAM to their places in `data`, and from there to base. */
export function copyOut(pair: Pair, pages: Uint32Array, from: number, to: number, data: Buffer[]): void {
  eachRun(pages, from, to, (window, offset, length, at) => {
    noteBase(pair.notes, window, offset, length);
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
    noteBase(pair.notes, window, offset, length);
    for (let page = at; page < at + length / PAGE_BYTES; page++) mark(pair.notes, pages[page]!);
    eachDataPart(data, at * PAGE_BYTES, length, (part, partAt) => {
      pair.base.windows[window]!.set(part, offset + partAt);
    });
  });
}

/** Copies pages from base to RAM. A block that has no data there has none here either, when this is over. */
export function copyBack(pair: Pair, pages: Uint32Array, from: number, to: number): void {
  const { data } = pair.notes;
  eachRun(pages, from, to, (window, offset, length) => {
    const shift = window * WINDOW_BYTES;
    const [ram, base] = [pair.ram.windows[window]!, pair.base.windows[window]!];
    const end = shift + offset + length;
    for (let at = shift + offset; at < end;) {
      const block = Math.floor(at / BLOCK_BYTES);
      const [strip, bit] = [Math.floor(block / STRIP_BLOCKS), 1 << (block % STRIP_BLOCKS)];
      const next = Math.min(end, (block + 1) * BLOCK_BYTES);
      if ((data[strip]! & (bit << STRIP_BLOCKS)) !== 0) {
        ram.set(base.subarray(at - shift, next - shift), at - shift);
        if ((data[strip]! & bit) === 0) Atomics.or(data, strip, bit);
      } else {
        const blockStart = block * BLOCK_BYTES;
        punchHole(pair.ram.fd, blockStart, Math.min(BLOCK_BYTES, pair.byteLength - blockStart));
        Atomics.and(data, strip, ~bit);
      }
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
