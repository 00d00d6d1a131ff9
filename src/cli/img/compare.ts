/** `colo img compare`: whether two images have the same content for a guest. Exit codes of qemu-img: 0, 1, over 1. */
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { openOptions, print } from './common.ts';

const CHUNK = 2 ** 21;
const SECTOR = 512;

export interface CompareRequest {
  readonly format?: string;
  readonly secondFormat?: string;
  readonly strict?: boolean;
  readonly quiet?: boolean;
  readonly forceShare?: boolean;
}

export async function compareCommand(
  first: string,
  second: string,
  request: CompareRequest,
): Promise<number> {
  const graph = new BlockGraph();
  const say = (line: string): void => {
    if (!request.quiet) print(line);
  };
  try {
    const a = await graph.openImage(first, openOptions(true, request.format, request.forceShare));
    const b = await graph.openImage(second, openOptions(true, request.secondFormat, request.forceShare));
    if (a.lengthBytes !== b.lengthBytes) {
      if (request.strict) {
        say('Strict mode: Image size mismatch!');
        return 1;
      }
      say('Warning: Image size mismatch!');
    }
    const mismatch = await firstDifference(a, b);
    if (mismatch === null) {
      say('Images are identical.');
      return 0;
    }
    say(`Content mismatch at offset ${mismatch}!`);
    return 1;
  } finally {
    await graph.closeAll();
  }
}

/** The first sector that differs; what one image has and the other has not must be zeros. Null: none. */
export async function firstDifference(a: BlockNode, b: BlockNode): Promise<number | null> {
  const end = Math.max(a.lengthBytes, b.lengthBytes);
  const left = Buffer.alloc(CHUNK);
  const right = Buffer.alloc(CHUNK);
  for (let at = 0; at < end; at += CHUNK) {
    const length = Math.min(CHUNK, end - at);
    if ((await isZero(a, at, length)) && (await isZero(b, at, length))) continue;
    await Promise.all([
      readOrZero(a, at, left.subarray(0, length)),
      readOrZero(b, at, right.subarray(0, length)),
    ]);
    if (left.compare(right, 0, length, 0, length) === 0) continue;
    for (let sector = 0; sector < length; sector += SECTOR) {
      const to = Math.min(length, sector + SECTOR);
      if (left.compare(right, sector, to, sector, to) !== 0) return at + sector;
    }
  }
  return null;
}

async function isZero(node: BlockNode, offset: number, length: number): Promise<boolean> {
  const there = Math.max(0, Math.min(length, node.lengthBytes - offset));
  return there === 0 || (await node.blockStatus(offset, there)).every(({ zero }) => zero);
}

async function readOrZero(node: BlockNode, offset: number, out: Uint8Array): Promise<void> {
  const there = Math.max(0, Math.min(out.byteLength, node.lengthBytes - offset));
  if (there > 0) await node.read(offset, out.subarray(0, there));
  out.fill(0, there);
}
