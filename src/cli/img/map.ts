/**
 * `colo img map`: which part of an image lies where in which file of its backing chain (QEMU docs/tools/qemu-img.rst,
 * map; asked of QEMU 7.2).
 */
import { resolve } from 'node:path';
import { ColoError } from '../../base/errors.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { openImage, shownName, sizeInSectors } from './common.ts';
import type { ImageName, OutputForm } from './common.ts';
import { besideImage } from './create.ts';
import type { ImgIo } from './io.ts';
import { Layers } from './layers.ts';
import type { LayeredExtent } from './layers.ts';
import { readQcow2Header } from './qcow2-extras.ts';
import { takeSize } from './sizes.ts';

/** Clusters asked for at once. */
const STEP_CLUSTERS = 16_384;
const PLAIN_CLUSTER = 65_536;

export interface MapRequest {
  readonly output: OutputForm;
  readonly startOffset?: string | undefined;
  readonly maxLength?: string | undefined;
}

interface MapEntry {
  readonly start: number;
  length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** Where it begins in `file`. */
  readonly offset?: number | undefined;
  readonly file?: string | undefined;
}

export async function mapCommand(io: ImgIo, image: ImageName, request: MapRequest): Promise<number> {
  const start = bytesOf('start offset', request.startOffset) ?? 0;
  const max = bytesOf('max length', request.maxLength);
  const graph = new BlockGraph();
  try {
    const node = await openImage(graph, image, true);
    const names = await namesOf(node, image.text);
    const layers = new Layers(node);
    const size = sizeInSectors(node);
    const step = STEP_CLUSTERS * (node.driver.clusterBytes ?? PLAIN_CLUSTER);
    const end = max === undefined ? size : Math.min(size, start + max);
    const printer = request.output === 'json' ? new JsonPrinter(io) : new HumanPrinter(io);
    for (let at = start; at < end; at += step) {
      for await (const extent of layers.status(at, Math.min(step, end - at)))
        printer.add(entryOf(extent, names));
    }
    printer.end(start);
    return 0;
  } finally {
    await graph.closeAll();
  }
}

function entryOf(extent: LayeredExtent, names: ReadonlyMap<BlockNode, string>): MapEntry {
  const { offset: start, length, depth, allocated: present, zero, data, map } = extent;
  const place = map ? { offset: map.offset, file: names.get(map.file) ?? shownName(map.file, '') } : {};
  return { start, length, depth, present, zero, data, ...place };
}

/** The files of a backing chain by QEMU's names: a backing file's is relative to where the image was opened. */
async function namesOf(top: BlockNode, said: string): Promise<Map<BlockNode, string>> {
  const names = new Map<BlockNode, string>();
  let above = said;
  let node: BlockNode | null = top;
  while (node) {
    const file = node.driver.children().get('file');
    if (!file) break;
    const real = shownName(file, above);
    const name = node !== top && resolve(above) === resolve(real) ? above : real;
    names.set(file, name);
    above = '';
    if (node.backing && node.driver.driverName === 'qcow2') {
      const { backingFile } = await readQcow2Header(file);
      if (backingFile !== null) above = besideImage(name, backingFile);
    }
    node = node.backing;
  }
  return names;
}

/** Joins neighbours that say the same, and prints each when it is known to be whole. */
abstract class Printer {
  protected readonly io: ImgIo;
  #last: MapEntry | null = null;

  constructor(io: ImgIo) {
    this.io = io;
  }

  add(entry: MapEntry): void {
    const last = this.#last;
    const next = this.seen(entry);
    if (last && isContinued(last, next)) last.length += next.length;
    else {
      if (last) this.print(last, false);
      this.#last = { ...next };
    }
  }

  /** `start`: of an empty range, which QEMU prints as an entry of length 0. */
  end(start: number): void {
    const none = { start, length: 0, depth: 0, present: false, zero: false, data: false };
    this.print(this.#last ?? none, true);
  }

  protected seen(entry: MapEntry): MapEntry {
    return entry;
  }

  protected abstract print(entry: MapEntry, isLast: boolean): void;
}

class JsonPrinter extends Printer {
  #begun = false;

  protected print({ start, length, depth, present, zero, data, offset }: MapEntry, isLast: boolean): void {
    const place = offset === undefined ? '' : `, "offset": ${offset}`;
    this.io.out(
      `${this.#begun ? '' : '['}{ "start": ${start}, "length": ${length}, "depth": ${depth}, "present": ${present}, ` +
        `"zero": ${zero}, "data": ${data}${place}}${isLast ? ']' : ','}\n`,
    );
    this.#begun = true;
  }
}

class HumanPrinter extends Printer {
  constructor(io: ImgIo) {
    super(io);
    io.out(`${'Offset'.padEnd(16)}${'Length'.padEnd(16)}${'Mapped to'.padEnd(16)}File\n`);
  }

  /** What is no data is not printed: it need not be told apart. */
  protected override seen(entry: MapEntry): MapEntry {
    return entry.data && !entry.zero ? entry : { ...entry, data: false, zero: true };
  }

  protected print({ start, length, zero, data, offset, file }: MapEntry): void {
    if (!data || zero) return;
    if (offset === undefined)
      throw new ColoError('File contains external, encrypted or compressed clusters.');
    const hex = (value: number): string => (value === 0 ? '0' : `0x${value.toString(16)}`).padEnd(16);
    this.io.out(`${hex(start)}${hex(length)}${hex(offset)}${file ?? ''}\n`);
  }
}

function isContinued(last: MapEntry, next: MapEntry): boolean {
  return (
    last.zero === next.zero &&
    last.data === next.data &&
    last.present === next.present &&
    last.depth === next.depth &&
    last.file === next.file &&
    (last.offset === undefined ? next.offset === undefined : last.offset + last.length === next.offset)
  );
}

/** Throws ParameterError. A size beyond any image's end is its end. */
function bytesOf(what: string, text: string | undefined): number | undefined {
  return text === undefined ? undefined : Math.min(Number.MAX_SAFE_INTEGER, Number(takeSize(what, text)));
}
