/** `colo img resize` and `colo img map`. */
import { ParameterError } from '../../base/errors.ts';
import type { BlockNode } from '../../block/node.ts';
import { openOptions, parseSize, print, withImage } from './common.ts';

export interface ResizeRequest {
  readonly format?: string;
  readonly shrink?: boolean;
  readonly quiet?: boolean;
}

/** `size` is absolute, or relative with a leading + or -. */
export async function resizeCommand(name: string, size: string, request: ResizeRequest): Promise<number> {
  const sign = size[0] === '+' ? 1 : size[0] === '-' ? -1 : 0;
  const given = parseSize(sign === 0 ? size : size.slice(1));
  return withImage(name, openOptions(false, request.format), async (node) => {
    const old = node.lengthBytes;
    const wanted = sign === 0 ? given : old + sign * given;
    if (wanted < 0) throw new ParameterError('New image size must be positive');
    if (wanted < old && !request.shrink) {
      process.stderr.write(
        "colo img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before " +
          'performing such an operation, make sure there is no important data there.\n',
      );
      throw new ParameterError('Use the --shrink option to perform a shrink operation.');
    }
    if (!node.driver.truncate) throw new ParameterError(`Cannot resize a '${node.driver.driverName}' image`);
    await node.driver.truncate(wanted);
    await node.flush();
    if (!request.quiet) print('Image resized.');
    return 0;
  });
}

interface MapEntry {
  start: number;
  length: number;
  depth: number;
  present: boolean;
  zero: boolean;
  data: boolean;
}

/** Every extent of an image with the depth of the backing file that it comes from, as JSON. */
export async function mapCommand(
  name: string,
  format: string | undefined,
  forceShare: boolean,
): Promise<number> {
  return withImage(name, openOptions(true, format, forceShare), async (node) => {
    const entries: MapEntry[] = [];
    const step = 2 ** 30;
    for (let at = 0; at < node.lengthBytes; at += step) {
      await mapRange(node, at, Math.min(step, node.lengthBytes - at), 0, entries);
    }
    const lines = entries.map(
      ({ start, length, depth, present, zero, data }) =>
        `{ "start": ${start}, "length": ${length}, "depth": ${depth}, "present": ${present}, "zero": ${zero}, "data": ${data}}`,
    );
    print(`[${lines.join(',\n')}]`);
    return 0;
  });
}

async function mapRange(
  node: BlockNode,
  offset: number,
  length: number,
  depth: number,
  out: MapEntry[],
): Promise<void> {
  const { backing } = node;
  for (const extent of await node.blockStatus(offset, length)) {
    const below = backing ? Math.max(0, Math.min(extent.length, backing.lengthBytes - extent.offset)) : 0;
    if (!extent.allocated && backing && below > 0) {
      await mapRange(backing, extent.offset, below, depth + 1, out);
      if (below < extent.length) {
        add(out, {
          start: extent.offset + below,
          length: extent.length - below,
          depth,
          present: false,
          zero: true,
          data: false,
        });
      }
      continue;
    }
    const { zero, data, allocated } = extent;
    add(out, { start: extent.offset, length: extent.length, depth, present: allocated, zero, data });
  }
}

function add(out: MapEntry[], entry: MapEntry): void {
  const last = out.at(-1);
  const same =
    last !== undefined &&
    last.start + last.length === entry.start &&
    last.depth === entry.depth &&
    last.present === entry.present &&
    last.zero === entry.zero &&
    last.data === entry.data;
  if (same) last.length += entry.length;
  else out.push(entry);
}
