/** `colo img create`: new images in qemu-img's words (QEMU block.c, bdrv_img_create; asked of QEMU 7.2). */
import { ColoError, ParameterError, messageOf } from '../../base/errors.ts';
import { blockDrivers } from '../../block/drivers/index.ts';
import { BlockGraph } from '../../block/graph.ts';
import { hasProtocol } from '../../block/probe.ts';
import { openImage, sizeInSectors } from './common.ts';
import { CreateOptions, asksForHelp, optionsHelp } from './create-options.ts';
import { createTarget } from './create-target.ts';
import type { ImgIo } from './io.ts';
import { takeSize } from './sizes.ts';

export interface CreateRequest {
  readonly format: string;
  readonly size?: string | undefined;
  readonly backing?: string | undefined;
  readonly backingFormat?: string | undefined;
  /** `cluster_size=64k,compat=1.1` */
  readonly options?: string | undefined;
  readonly quiet?: boolean | undefined;
  /** The backing file is not looked at. */
  readonly unsafe?: boolean | undefined;
}

/** Makes `file`, with the backing file's size when none is said. */
export async function createCommand(
  io: ImgIo,
  file: string | undefined,
  request: CreateRequest,
): Promise<number> {
  if (asksForHelp(request.options)) {
    io.out(optionsHelp(request.format, file));
    return 0;
  }
  if (file === undefined) throw new ParameterError('Expecting image file name');
  const size = request.size === undefined ? undefined : takeSize('image size', request.size);
  try {
    const options = await plan(file, size, request);
    if (!request.quiet) io.out(`Formatting '${file}', fmt=${request.format} ${options.toString()}\n`);
    await createTarget(file, options);
  } catch (cause) {
    throw new ColoError(`${file}: ${messageOf(cause)}`, { cause });
  }
  return 0;
}

async function plan(file: string, size: bigint | undefined, request: CreateRequest): Promise<CreateOptions> {
  const { format } = request;
  const options = new CreateOptions(format, file, request.options);
  if (size !== undefined) {
    if (options.isGiven('size')) throw new ParameterError('The image size must be specified only once');
    options.set('size', String(size));
  }
  if (request.backing !== undefined && !options.set('backing_file', request.backing))
    throw new ParameterError(`Backing file not supported for file format '${format}'`);
  if (request.backingFormat !== undefined && !options.set('backing_fmt', request.backingFormat))
    throw new ParameterError(`Backing format not supported for file format '${format}'`);
  const backing = options.get('backing_file');
  if (backing !== undefined) {
    const backingSize = await checkBacking(
      file,
      backing,
      options.get('backing_fmt'),
      request.unsafe ?? false,
    );
    if (!options.isGiven('size') && backingSize !== null) options.set('size', String(backingSize));
  }
  if (!options.isGiven('size')) throw new ParameterError('Image creation needs a size parameter');
  return options;
}

/** The backing file's size; null: not looked at. Throws ColoError. */
async function checkBacking(
  file: string,
  backing: string,
  format: string | undefined,
  unsafe: boolean,
): Promise<number | null> {
  if (backing === file) {
    throw new ParameterError('Error: Trying to create an image with the same filename as the backing file');
  }
  if (backing === '') throw new ParameterError('Expected backing file name, got empty string');
  if (unsafe) {
    if (format === undefined) throw new ParameterError('Backing file specified without backing format');
    return null;
  }
  const graph = new BlockGraph();
  try {
    if (format !== undefined && !blockDrivers.has(format)) throw new ColoError(`Unknown driver '${format}'`);
    const node = await openImage(graph, { text: besideImage(file, backing), format }, true).catch(
      (error: unknown) => {
        // The text of the opening alone: `create` has said which file it is about.
        throw error instanceof Error && error.cause instanceof Error ? error.cause : error;
      },
    );
    if (format === undefined) {
      throw new ParameterError(
        `Backing file specified without backing format\nDetected format of ${node.driver.driverName}.`,
      );
    }
    return sizeInSectors(node);
  } catch (cause) {
    if (cause instanceof ParameterError && format === undefined) throw cause;
    throw new ColoError(`${messageOf(cause)}\nCould not open backing image.`, { cause });
  } finally {
    await graph.closeAll();
  }
}

/** A name as it stands in an image's header, seen from where the image is (QEMU: path_combine). */
export function besideImage(image: string, name: string): string {
  if (hasProtocol(name) || name.startsWith('/') || (hasProtocol(image) && !image.startsWith('file:')))
    return name;
  return image.slice(0, image.lastIndexOf('/') + 1) + name;
}
