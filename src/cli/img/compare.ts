/**
 * `colo img compare`: whether two images have the same content for a guest, and with `strict` the same allocation.
 * Words and exit codes of qemu-img compare (asked of QEMU 7.2): 0 same, 1 different, 2 cannot be opened, 3 status of
 * clusters unknown, 4 a read failed. Only what one of them has as data is read, a few pieces ahead of the comparison.
 */
import { ColoError, ERRNO_TEXT, errnoOf } from '../../base/errors.ts';
import type { BlockExtent } from '../../block/driver.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { SECTOR, openImage, readPadded, sizeInSectors, statusPadded } from './common.ts';
import type { ImageName } from './common.ts';
import { finishWith } from './io.ts';
import type { ImgIo } from './io.ts';
import { silent } from './json.ts';
import { Layers } from './layers.ts';
import type { LayeredExtent } from './layers.ts';
import { Progress } from './progress.ts';

const PIECE = 2 ** 20;
/** Block status is asked for this much at once. */
const WINDOW = 2 ** 28;
/** Pieces being read while an earlier one is compared. */
const AHEAD = 4;
const ZEROS = Buffer.alloc(PIECE);

export interface CompareRequest {
  readonly strict?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly progress?: boolean | undefined;
  /** The verdict as an object, when there is one. */
  readonly json?: boolean | undefined;
}

/** One side of the comparison. */
interface Side {
  readonly node: BlockNode;
  readonly name: string;
  readonly bytes: number;
}

/** A range over which both sides are of one kind. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly zero: readonly [boolean, boolean];
}

export async function compareCommand(
  io: ImgIo,
  first: ImageName,
  second: ImageName,
  request: CompareRequest,
): Promise<number> {
  const graph = new BlockGraph();
  const { json = false, quiet = false } = request;
  const said: string[] = [];
  const say = (line: string): void => {
    said.push(line);
    if (!json && !quiet) io.out(`${line}\n`);
  };
  const progress = new Progress(json ? silent(io) : io, (request.progress ?? false) && !quiet, 2);
  try {
    const sides = [await openSide(graph, first), await openSide(graph, second)] as const;
    const code = await compare(sides, request.strict ?? false, say, (percent) => progress.update(percent));
    if (json && !quiet) io.out(`${JSON.stringify(verdict(code === 0, said, sides), null, 2)}\n`);
    return code;
  } catch (error) {
    return finishWith(io, error, 2);
  } finally {
    progress.end();
    await graph.closeAll();
  }
  function openSide(into: BlockGraph, image: ImageName): Promise<Side> {
    return openImage(into, image, true).then((node) => ({
      node,
      name: image.text,
      bytes: sizeInSectors(node),
    }));
  }
}

/** `offset`: of what differs first, where it is known. */
function verdict(isIdentical: boolean, said: readonly string[], sides: readonly Side[]): object {
  const offset = /offset (\d+)/i.exec(said.join(' '))?.[1];
  return {
    identical: isIdentical,
    offset: offset === undefined ? null : Number(offset),
    'virtual-sizes': sides.map(({ bytes }) => bytes),
    messages: said,
  };
}

async function compare(
  sides: readonly [Side, Side],
  strict: boolean,
  say: (line: string) => void,
  onPercent: (percent: number) => void,
): Promise<number> {
  const common = Math.min(sides[0].bytes, sides[1].bytes);
  const end = Math.max(sides[0].bytes, sides[1].bytes);
  if (strict && common !== end) {
    say('Strict mode: Image size mismatch!');
    return 1;
  }
  const run = new Comparison(sides, strict, (done) => onPercent((100 * done) / Math.max(1, end)));
  let finding = await run.over(0, common);
  if (finding === null && common !== end) {
    say('Warning: Image size mismatch!');
    finding = await run.over(common, end);
  }
  say(finding ?? 'Images are identical.');
  return finding === null ? 0 : 1;
}

class Comparison {
  readonly #sides: readonly [Side, Side];
  readonly #layers: readonly [Layers, Layers];
  readonly #strict: boolean;
  readonly #onDone: (doneBytes: number) => void;
  /** Pairs of buffers that are free. */
  readonly #buffers: [Buffer, Buffer][] = [];

  constructor(sides: readonly [Side, Side], strict: boolean, onDone: (doneBytes: number) => void) {
    this.#sides = sides;
    this.#layers = [new Layers(sides[0].node), new Layers(sides[1].node)];
    this.#strict = strict;
    this.#onDone = onDone;
  }

  /** What differs first in [from, to), in qemu-img's words; null: nothing. */
  async over(from: number, to: number): Promise<string | null> {
    const ahead: { piece: Piece; mismatch: Promise<number | null> }[] = [];
    const next = async (): Promise<string | null> => {
      const head = ahead.shift();
      if (!head) return null;
      const mismatch = await head.mismatch;
      if (mismatch !== null) return `Content mismatch at offset ${mismatch}!`;
      this.#onDone(head.piece.offset + head.piece.length);
      return null;
    };
    try {
      for (let at = from; at < to; at += WINDOW) {
        const length = Math.min(WINDOW, to - at);
        const [left, right] = [await this.#status(0, at, length), await this.#status(1, at, length)];
        for (const pair of pairs(left, right)) {
          if (this.#strict && !isAlike(pair, this.#sides[0].bytes)) {
            // What was read ahead comes first.
            for (let found = await next(); ; found = await next()) {
              if (found !== null) return found;
              if (ahead.length === 0) break;
            }
            return `Strict mode: Offset ${pair.offset} block status mismatch!`;
          }
          const zero = [pair.left.zero, pair.right.zero] as const;
          if (zero[0] && zero[1]) continue;
          for (let done = 0; done < pair.length; done += PIECE) {
            const piece = {
              offset: pair.offset + done,
              length: Math.min(PIECE, pair.length - done),
              zero,
            };
            const mismatch = this.#difference(piece);
            mismatch.catch(() => undefined); // told where it is awaited
            ahead.push({ piece, mismatch });
            if (ahead.length < AHEAD) continue;
            const found = await next();
            if (found !== null) return found;
          }
        }
      }
      while (ahead.length > 0) {
        const found = await next();
        if (found !== null) return found;
      }
      return null;
    } finally {
      await Promise.allSettled(ahead.map(({ mismatch }) => mismatch));
    }
  }

  async #status(side: 0 | 1, offset: number, length: number): Promise<BlockExtent[]> {
    const { node, name, bytes } = this.#sides[side];
    // What one image has and the other has not must be zeros.
    if (offset >= bytes) return [{ offset, length, zero: true, data: false, allocated: false }];
    try {
      if (!this.#strict) return await statusPadded(node, offset, length);
      const extents: LayeredExtent[] = [];
      for await (const extent of this.#layers[side].status(offset, length)) extents.push(extent);
      return whole(extents);
    } catch (cause) {
      throw new CompareError(3, `Sector allocation test failed for ${name}`, { cause });
    }
  }

  /** The first sector of the piece that differs. Throws CompareError. */
  async #difference({ offset, length, zero }: Piece): Promise<number | null> {
    const buffers = this.#buffers.pop() ?? [Buffer.allocUnsafe(PIECE), Buffer.allocUnsafe(PIECE)];
    const [left, right] = [zero[0] ? ZEROS : buffers[0], zero[1] ? ZEROS : buffers[1]];
    await Promise.all([
      zero[0] ? null : this.#read(0, offset, left.subarray(0, length)),
      zero[1] ? null : this.#read(1, offset, right.subarray(0, length)),
    ]);
    let found: number | null = null;
    if (left.compare(right, 0, length, 0, length) !== 0) {
      for (let sector = 0; sector < length && found === null; sector += SECTOR) {
        const to = Math.min(length, sector + SECTOR);
        if (left.compare(right, sector, to, sector, to) !== 0) found = offset + sector;
      }
    }
    this.#buffers.push(buffers);
    return found;
  }

  async #read(side: 0 | 1, offset: number, target: Buffer): Promise<void> {
    const { node, name } = this.#sides[side];
    try {
      await readPadded(node, offset, target);
    } catch (cause) {
      const text = ERRNO_TEXT[errnoOf(cause)];
      throw new CompareError(4, `Error while reading offset ${offset} of ${name}: ${text}`, { cause });
    }
  }
}

/** A failure with an exit code of its own. */
class CompareError extends ColoError {
  readonly exitCode: number;

  constructor(exitCode: number, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

interface Pair {
  readonly offset: number;
  readonly length: number;
  readonly left: BlockExtent;
  readonly right: BlockExtent;
}

/** Both lists cut at the ends of either. They cover the same range. */
function* pairs(left: readonly BlockExtent[], right: readonly BlockExtent[]): Generator<Pair> {
  let [l, r] = [0, 0];
  let [a, b] = [left[0], right[0]];
  let at = a?.offset ?? 0;
  while (a && b) {
    const end = Math.min(a.offset + a.length, b.offset + b.length);
    yield { offset: at, length: end - at, left: a, right: b };
    at = end;
    if (a.offset + a.length === end) a = left[++l];
    if (b.offset + b.length === end) b = right[++r];
  }
}

/** Neighbours that QEMU would tell as one. */
function whole(extents: readonly LayeredExtent[]): LayeredExtent[] {
  const out: LayeredExtent[] = [];
  for (const extent of extents) {
    const last = out.at(-1);
    const isNext =
      last?.zero === extent.zero &&
      last.data === extent.data &&
      last.allocated === extent.allocated &&
      last.depth === extent.depth &&
      last.map?.file === extent.map?.file &&
      (last.map === undefined || last.map.offset + last.length === extent.map?.offset);
    if (last && isNext) out[out.length - 1] = { ...last, length: last.length + extent.length };
    else out.push(extent);
  }
  return out;
}

/** The same status to QEMU's eyes: data, zero, allocated, with a place, reaching the end. */
function isAlike({ left, right }: Pair, imageEnd: number): boolean {
  const reachesEnd = (extent: BlockExtent): boolean => extent.offset + extent.length === imageEnd;
  return (
    left.zero === right.zero &&
    left.data === right.data &&
    left.allocated === right.allocated &&
    (left.map === undefined) === (right.map === undefined) &&
    reachesEnd(left) === reachesEnd(right)
  );
}
