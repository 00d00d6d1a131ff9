/** What the commands of `colo img` share: sizes, images opened for one command, and failures in qemu-img's manner. */
import { InvalidArgumentError } from 'commander';
import { messageOf } from '../../base/errors.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { OpenImageOptions } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';

const SUFFIXES = 'bkMGTPE';

/** `10G`, `1.5k`, `512` in bytes (K and m are taken too). Throws InvalidArgumentError. */
export function parseSize(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)([bkKmMgGtTpPeE]?)$/.exec(text);
  const suffix = match?.[2] ?? '';
  const power = suffix === '' ? 0 : SUFFIXES.toLowerCase().indexOf(suffix.toLowerCase());
  const bytes = match ? Math.floor(Number(match[1]) * 1024 ** power) : NaN;
  if (!Number.isSafeInteger(bytes)) {
    throw new InvalidArgumentError(
      'Invalid image size specified. You may use k, M, G, T, P or E suffixes for kilobytes, megabytes, gigabytes, ' +
        'terabytes, petabytes and exabytes.',
    );
  }
  return bytes;
}

/** `196 KiB`, as qemu-img prints sizes: three significant digits. */
export function humanSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toPrecision(3))} ${units[unit] ?? ''}`;
}

/** Runs a command: its number is the exit code; an error is one line and `failureCode`. */
export async function finish(run: () => Promise<number>, failureCode = 1): Promise<void> {
  try {
    process.exitCode = await run();
  } catch (error) {
    process.stderr.write(`colo img: ${messageOf(error)}\n`);
    process.exitCode = failureCode;
  }
}

/** Opens one image for `act` and closes it whatever happens. */
export async function withImage<T>(
  name: string,
  options: OpenImageOptions,
  act: (node: BlockNode, graph: BlockGraph) => Promise<T>,
): Promise<T> {
  const graph = new BlockGraph();
  try {
    return await act(await graph.openImage(name, options), graph);
  } finally {
    await graph.closeAll();
  }
}

/** Openers take no undefined values. */
export function openOptions(readOnly: boolean, format?: string, forceShare?: boolean): OpenImageOptions {
  return { readOnly, ...(format === undefined ? {} : { format }), ...(forceShare ? { forceShare } : {}) };
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
