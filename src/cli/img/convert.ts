/**
 * `colo img convert`: the content of one image in another format. Holes and zeros of the source stay holes; one piece is
 * read while the one before is written.
 */
import { SingleBar } from 'cli-progress';
import { ParameterError } from '../../base/errors.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { createQcow2 } from '../../block/drivers/qcow2/create.ts';
import { openOptions } from './common.ts';
import { createRaw, parseCreateOptions, qcow2Options } from './create.ts';

const CHUNK = 2 ** 21;
/** Zeros of at least this length are left out (qemu-img -S). */
const SPARSE = 4096;
const ZEROS = Buffer.alloc(SPARSE);

export interface ConvertRequest {
  readonly format?: string;
  readonly outputFormat: string;
  readonly options?: string;
  readonly progress?: boolean;
  /** The target is there already (an NBD export, a device). */
  readonly existing?: boolean;
  readonly forceShare?: boolean;
}

export async function convertCommand(
  source: string,
  target: string,
  request: ConvertRequest,
): Promise<number> {
  const graph = new BlockGraph();
  const bar = request.progress ? progressBar() : null;
  try {
    const from = await graph.openImage(source, openOptions(true, request.format, request.forceShare));
    if (!request.existing) await create(target, from.lengthBytes, request);
    const to = await graph.openImage(target, openOptions(false, request.outputFormat));
    if (to.lengthBytes < from.lengthBytes)
      throw new ParameterError(`'${target}' is smaller than '${source}'`);
    bar?.start(Math.max(1, from.lengthBytes), 0);
    await copyImage(from, to, !request.existing, (done) => bar?.update(done));
    await to.flush();
    bar?.update(Math.max(1, from.lengthBytes));
    return 0;
  } finally {
    bar?.stop();
    await graph.closeAll();
  }
}

async function create(target: string, sizeBytes: number, request: ConvertRequest): Promise<void> {
  const options = parseCreateOptions(request.options);
  if (request.outputFormat === 'qcow2') await createQcow2(target, { sizeBytes, ...qcow2Options(options) });
  else if (request.outputFormat === 'raw') await createRaw(target, sizeBytes);
  else throw new ParameterError(`Unknown file format '${request.outputFormat}'`);
}

/** Copies what is not zero; `targetIsZero` false: zeros are written too. */
export async function copyImage(
  from: BlockNode,
  to: BlockNode,
  targetIsZero: boolean,
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  const buffers = [Buffer.alloc(CHUNK), Buffer.alloc(CHUNK)] as const;
  let writing: Promise<void> = Promise.resolve();
  try {
    for (let at = 0, turn = 0; at < from.lengthBytes; at += CHUNK, turn ^= 1) {
      const piece = buffers[turn as 0 | 1].subarray(0, Math.min(CHUNK, from.lengthBytes - at));
      const extents = await from.blockStatus(at, piece.byteLength);
      const allZero = extents.every(({ zero }) => zero);
      if (!allZero) await from.read(at, piece);
      await writing;
      onProgress(at);
      if (allZero) writing = targetIsZero ? Promise.resolve() : to.writeZeroes(at, piece.byteLength);
      else writing = writePiece(to, at, piece, targetIsZero);
      writing.catch(() => undefined); // told where it is awaited
    }
  } finally {
    await writing;
  }
}

async function writePiece(
  to: BlockNode,
  offset: number,
  piece: Buffer,
  targetIsZero: boolean,
): Promise<void> {
  for (let at = 0; at < piece.byteLength;) {
    const zero = isZeroAt(piece, at);
    let end = at + SPARSE;
    while (end < piece.byteLength && isZeroAt(piece, end) === zero) end += SPARSE;
    end = Math.min(end, piece.byteLength);
    if (!zero) await to.write(offset + at, piece.subarray(at, end));
    else if (!targetIsZero) await to.writeZeroes(offset + at, end - at);
    at = end;
  }
}

function isZeroAt(piece: Buffer, at: number): boolean {
  const length = Math.min(SPARSE, piece.byteLength - at);
  return piece.compare(ZEROS, 0, length, at, at + length) === 0;
}

function progressBar(): SingleBar {
  return new SingleBar({
    format: '{bar} {percentage}%',
    stream: process.stderr,
    barsize: 40,
    hideCursor: true,
  });
}
