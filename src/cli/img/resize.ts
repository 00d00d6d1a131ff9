/** `colo img resize`: another virtual size, in qemu-img's words (asked of QEMU 7.2). */
import type { Command } from 'commander';
import { ColoError, ParameterError } from '../../base/errors.ts';
import { FileDriver } from '../../block/drivers/file.ts';
import { BlockGraph } from '../../block/graph.ts';
import { SECTOR, openImage, safeBytes, sizeInSectors } from './common.ts';
import type { ImageName } from './common.ts';
import { preallocate } from './create-target.ts';
import type { Preallocation } from './create-target.ts';
import { report, warn } from './io.ts';
import type { ImgIo } from './io.ts';
import { takeOptionSize } from './sizes.ts';

const MAX_INT64 = 2n ** 63n - 1n;

export interface ResizeRequest {
  readonly shrink?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly preallocation?: string | undefined;
}

/** `size` is absolute, or relative with a leading + or -. */
export async function resizeCommand(
  io: ImgIo,
  image: ImageName,
  size: string,
  request: ResizeRequest,
): Promise<number> {
  const mode = request.preallocation ?? 'off';
  if (!['off', 'metadata', 'falloc', 'full'].includes(mode))
    throw new ParameterError(`Invalid preallocation mode '${mode}'`);
  const sign = size.startsWith('+') ? 1n : size.startsWith('-') ? -1n : 0n;
  const given = takeOptionSize('size', sign === 0n ? size : size.slice(1));
  const graph = new BlockGraph();
  try {
    const node = await openImage(graph, image, false);
    const now = BigInt(sizeInSectors(node));
    const wanted = sign === 0n ? given : now + sign * given;
    if (wanted <= 0n || wanted > MAX_INT64) throw new ParameterError('New image size must be positive');
    if (wanted <= now && mode !== 'off')
      throw new ParameterError('Preallocation can only be used for growing images');
    if (wanted < now && !request.shrink) {
      report(io, 'Use the --shrink option to perform a shrink operation.');
      warn(
        io,
        "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an " +
          'operation, make sure there is no important data there.',
      );
      return 1;
    }
    const { driver } = node;
    const oldBytes = node.lengthBytes;
    const file = driver.children().get('file')?.driver;
    checkDriver(driver.driverName, wanted, mode);
    if (!driver.truncate)
      throw new ColoError(`Image format driver '${driver.driverName}' does not support resize`);
    const bytes = safeBytes(
      wanted,
      `Failed to ${driver.driverName === 'qcow2' ? 'grow the L1 table' : 'resize the file'}: File too large`,
    );
    await driver.truncate(bytes);
    if (file instanceof FileDriver && mode !== 'off')
      await preallocate(file.filename, oldBytes, bytes, mode as Preallocation);
    await node.flush();
  } finally {
    await graph.closeAll();
  }
  if (!request.quiet) io.out('Image resized.\n');
  return 0;
}

function checkDriver(driver: string, wanted: bigint, mode: string): void {
  if (driver === 'qcow2') {
    if (wanted % BigInt(SECTOR) !== 0n)
      throw new ParameterError(`The new size must be a multiple of ${SECTOR}`);
    if (mode !== 'off') {
      throw new ParameterError(
        `Preallocation mode '${mode}' is not supported when a qcow2 image grows; use off`,
      );
    }
  }
  if (mode === 'metadata') throw new ParameterError('Unsupported preallocation mode: metadata');
}

/** Makes a command take its last argument as it is, so that `-1M` is a size and no option (as qemu-img does). */
export function lastIsSize(command: Command): void {
  const parseOptions = command.parseOptions.bind(command);
  command.parseOptions = (args) => {
    const last = args.at(-1);
    if (last === undefined || !/^-[0-9]/.test(last)) return parseOptions(args);
    const { operands, unknown } = parseOptions(args.slice(0, -1).filter((arg) => arg !== '--'));
    return { operands: [...operands, last], unknown };
  };
}
