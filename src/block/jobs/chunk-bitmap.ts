/**
 * A bitmap over the chunks of a disk: which are dirty (mirror, commit) or already copied (backup). It counts its bits
 * and finds runs of them; it knows no I/O. Callers pass ranges inside the disk (BlockNode has checked them).
 */
export class ChunkBitmap {
  readonly lengthBytes: number;
  readonly chunkBytes: number;
  readonly chunks: number;
  readonly #words: Uint32Array;
  #count = 0;

  /** `chunkBytes` is any positive size; the last chunk may be shorter. */
  constructor(lengthBytes: number, chunkBytes: number) {
    this.lengthBytes = lengthBytes;
    this.chunkBytes = chunkBytes;
    this.chunks = Math.ceil(lengthBytes / chunkBytes);
    this.#words = new Uint32Array(Math.ceil(this.chunks / 32));
  }

  /** How many chunks are set. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of the chunks that are set. */
  get bytes(): number {
    const cut = this.has(this.chunks - 1) ? this.chunks * this.chunkBytes - this.lengthBytes : 0;
    return this.#count * this.chunkBytes - cut;
  }

  has(chunk: number): boolean {
    return ((this.#words[chunk >>> 5] ?? 0) & (1 << (chunk & 31))) !== 0;
  }

  /** Whether any chunk that the range touches is set. */
  hasAny(offset: number, length: number): boolean {
    const end = Math.ceil((offset + length) / this.chunkBytes);
    return this.#scan(Math.floor(offset / this.chunkBytes), Math.min(end, this.chunks)) >= 0;
  }

  set(chunk: number): void {
    const bit = 1 << (chunk & 31);
    const word = this.#words[chunk >>> 5] ?? 0;
    if ((word & bit) !== 0) return;
    this.#words[chunk >>> 5] = word | bit;
    this.#count++;
  }

  clear(chunk: number): void {
    const bit = 1 << (chunk & 31);
    const word = this.#words[chunk >>> 5] ?? 0;
    if ((word & bit) === 0) return;
    this.#words[chunk >>> 5] = word & ~bit;
    this.#count--;
  }

  /** Sets every chunk that [offset, offset+length) touches; what lies behind the end is left out. */
  setRange(offset: number, length: number): void {
    if (length <= 0) return;
    const end = Math.min(this.chunks, Math.floor((offset + length - 1) / this.chunkBytes) + 1);
    for (let chunk = Math.floor(offset / this.chunkBytes); chunk < end;) {
      if ((chunk & 31) === 0 && chunk + 32 <= end && this.#words[chunk >>> 5] === 0) {
        this.#words[chunk >>> 5] = 0xffff_ffff;
        this.#count += 32;
        chunk += 32;
      } else this.set(chunk++);
    }
  }

  /** Sets every chunk that a set chunk of `other` touches; the sizes of the chunks may differ. */
  setFrom(other: ChunkBitmap): void {
    other.eachRun((offset, length) => this.setRange(offset, Math.min(length, this.lengthBytes - offset)));
  }

  /** Tells the ranges of neighbouring set chunks, in order. */
  eachRun(tell: (offset: number, length: number) => void): void {
    let first = this.#scan(0, this.chunks);
    while (first >= 0) {
      let end = first + 1;
      while (end < this.chunks && this.has(end)) end++;
      const offset = first * this.chunkBytes;
      tell(offset, Math.min(end * this.chunkBytes, this.lengthBytes) - offset);
      first = this.#scan(end, this.chunks);
    }
  }

  setAll(): void {
    this.setRange(0, this.lengthBytes);
  }

  clearAll(): void {
    this.#words.fill(0);
    this.#count = 0;
  }

  /** The first set chunk at or after `from`, going round at the end; -1 when none is set. */
  nextSet(from: number): number {
    if (this.#count === 0) return -1;
    const start = from >= this.chunks ? 0 : from;
    const found = this.#scan(start, this.chunks);
    return found >= 0 ? found : this.#scan(0, start);
  }

  #scan(from: number, to: number): number {
    let chunk = from;
    while (chunk < to) {
      const word = (this.#words[chunk >>> 5] ?? 0) >>> (chunk & 31);
      if (word === 0) {
        chunk = (chunk | 31) + 1;
        continue;
      }
      // The lowest set bit: 31 - clz32(x & -x).
      chunk += 31 - Math.clz32(word & -word);
      return chunk < to ? chunk : -1;
    }
    return -1;
  }
}
