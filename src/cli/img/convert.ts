/**
 * `colo img convert`: the content of one image, or of several one behind the other, in another format. Rules and texts:
 * QEMU docs/tools/qemu-img.rst, convert; asked of QEMU 7.2. The copying itself is src/block/copy-image.ts.
 */
import { ColoError, ERRNO_TEXT, ParameterError, errnoOf, messageOf } from '../../base/errors.ts';
import { copyImage } from '../../block/copy-image.ts';
import type { CopyOptions } from '../../block/copy-image.ts';
import { Qcow2Driver } from '../../block/drivers/qcow2/qcow2.ts';
import { BlockGraph } from '../../block/graph.ts';
import { BlockNode } from '../../block/node.ts';
import { SECTOR, checkCacheMode, openImage, sizeInSectors } from './common.ts';
import type { ImageName } from './common.ts';
import { Concatenation } from './concatenation.ts';
import { CreateOptions, asksForHelp, optionsHelp } from './create-options.ts';
import { createTarget } from './create-target.ts';
import { warn } from './io.ts';
import type { ImgIo } from './io.ts';
import { Progress } from './progress.ts';
import { takeSize } from './sizes.ts';

const MAX_COROUTINES = 16;
const MAX_SPARSE_BYTES = 16 * 2 ** 20;

export interface ConvertRequest {
  readonly outputFormat?: string | undefined;
  /** Creation options. */
  readonly options?: string | undefined;
  readonly backing?: string | undefined;
  readonly backingFormat?: string | undefined;
  readonly compress?: boolean | undefined;
  readonly progress?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  /** The target is there already (an NBD export, a device). */
  readonly existing?: boolean | undefined;
  readonly targetIsZero?: boolean | undefined;
  readonly targetIsOptions?: boolean | undefined;
  readonly targetCache?: string | undefined;
  readonly sparse?: string | undefined;
  readonly coroutines?: string | undefined;
  readonly outOfOrder?: boolean | undefined;
  readonly rate?: string | undefined;
  readonly salvage?: boolean | undefined;
}

/** A request whose numbers have been read. */
interface Numbers {
  readonly sparseBytes: number;
  readonly parallel: number;
  readonly bytesPerSecond: number | undefined;
}

export async function convertCommand(
  io: ImgIo,
  sources: readonly ImageName[],
  target: string | undefined,
  request: ConvertRequest,
): Promise<number> {
  const format = request.outputFormat ?? 'raw';
  if (asksForHelp(request.options)) {
    io.out(optionsHelp(format, target));
    return 0;
  }
  const numbers = checkRequest(sources, request);
  if (target === undefined || sources.length === 0) throw new ParameterError('Must specify image file name');
  const progress = new Progress(io, (request.progress ?? false) && !request.quiet, 1);
  const graph = new BlockGraph();
  try {
    const nodes: BlockNode[] = [];
    for (const source of sources) nodes.push(await openImage(graph, source, true));
    const from = new BlockNode('source', new Concatenation(nodes));
    const created = request.existing ? null : await createFor(target, format, from.lengthBytes, request);
    const to = await openImage(graph, targetName(target, request, format), false);
    if (sizeInSectors(to) < from.lengthBytes)
      throw new ParameterError('output file is smaller than input file');
    const hasBacking = created?.hasBacking ?? request.backing !== undefined;
    await copyImage(from, to, Math.min(from.lengthBytes, to.lengthBytes), {
      ...numbers,
      ...copyOptions(io, to, request),
      targetIsZero: created?.isZero ?? request.targetIsZero ?? false,
      ...(hasBacking ? { sharedBackingBytes: to.backing?.lengthBytes ?? 0 } : {}),
      onProgress: (done) => progress.update((100 * done) / Math.max(1, from.lengthBytes)),
    });
    await to.flush();
    progress.update(100);
    return 0;
  } finally {
    progress.end();
    await graph.closeAll();
  }
}

/** Throws ParameterError in QEMU's order of looking at things. */
function checkRequest(sources: readonly ImageName[], request: ConvertRequest): Numbers {
  const sparse =
    request.sparse === undefined ? undefined : takeSize('buffer size for sparse output', request.sparse);
  if (sparse !== undefined && (sparse % BigInt(SECTOR) !== 0n || sparse > BigInt(MAX_SPARSE_BYTES))) {
    throw new ParameterError(
      `Invalid buffer size for sparse output specified. Valid sizes are multiples of ${SECTOR} up to ` +
        `${MAX_SPARSE_BYTES}. Select 0 to disable sparse detection (fully allocates output).`,
    );
  }
  const parallel = Number(request.coroutines ?? 8);
  if (!Number.isInteger(parallel) || parallel < 1 || parallel > MAX_COROUTINES) {
    throw new ParameterError(
      `Invalid number of coroutines. Allowed number of coroutines is between 1 and ${MAX_COROUTINES}`,
    );
  }
  const rate = request.rate === undefined ? undefined : Number(takeSize('rate limit', request.rate));
  if (request.targetIsOptions && !request.existing)
    throw new ParameterError('--target-image-opts requires use of -n flag');
  if (request.targetIsOptions && request.outputFormat !== undefined)
    throw new ParameterError('--target-image-opts and -O are mutually exclusive');
  if (request.existing && request.options !== undefined)
    throw new ParameterError('-o has no effect when skipping image creation');
  if (request.targetIsZero && !request.existing)
    throw new ParameterError('--target-is-zero requires use of -n flag');
  checkCacheMode(request.targetCache, false);
  for (const { cache } of sources) checkCacheMode(cache, true);
  if (request.backing !== undefined && sources.length > 1) {
    throw new ParameterError(
      'Having a backing file for the target makes no sense when concatenating multiple input images',
    );
  }
  // A limit of nothing is no limit.
  return { sparseBytes: Number(sparse ?? 4096n), parallel, bytesPerSecond: rate === 0 ? undefined : rate };
}

/** Makes the target. Throws ColoError with QEMU's text. */
async function createFor(
  target: string,
  format: string,
  bytes: number,
  request: ConvertRequest,
): Promise<{ hasBacking: boolean; isZero: boolean }> {
  const options = new CreateOptions(format, target, request.options);
  options.set('size', String(bytes));
  if (request.backing !== undefined && !options.set('backing_file', request.backing))
    throw new ParameterError(`Backing file not supported for file format '${format}'`);
  if (request.backingFormat !== undefined && !options.set('backing_fmt', request.backingFormat))
    throw new ParameterError(`Backing format not supported for file format '${format}'`);
  if (options.isGiven('backing_file') && !options.isGiven('backing_fmt'))
    throw new ParameterError('Use of backing file requires explicit backing format');
  if (request.compress && format !== 'qcow2')
    throw new ParameterError('Compression not supported for this file format');
  try {
    const hasBacking = options.isGiven('backing_file');
    return { hasBacking, isZero: (await createTarget(target, options)) && !hasBacking };
  } catch (cause) {
    throw new ColoError(`${target}: error while converting ${format}: ${messageOf(cause)}`, { cause });
  }
}

function targetName(target: string, request: ConvertRequest, format: string): ImageName {
  return request.targetIsOptions
    ? { text: target, isOptions: true, cache: request.targetCache }
    : { text: target, format, cache: request.targetCache };
}

function copyOptions(io: ImgIo, to: BlockNode, request: ConvertRequest): Partial<CopyOptions> {
  const { driver } = to;
  if (request.compress && !(driver instanceof Qcow2Driver))
    throw new ParameterError('Compression not supported for this file format');
  const isWriteThrough = request.targetCache === 'writethrough' || request.targetCache === 'directsync';
  return {
    outOfOrder: request.outOfOrder ?? false,
    ...(isWriteThrough ? { writeFlags: { fua: true } } : {}),
    ...(request.salvage
      ? {
          onUnreadable: (offset, error) => {
            warn(io, `error while reading offset ${offset}: ${ERRNO_TEXT[errnoOf(error)]}`);
          },
        }
      : {}),
    ...(request.compress && driver instanceof Qcow2Driver
      ? {
          clusters: {
            bytes: driver.clusterBytes,
            write: (offset, cluster) => driver.writeCompressed(offset, cluster),
          },
        }
      : {}),
  };
}
