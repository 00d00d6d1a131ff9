/**
 * `colo img check [-r leaks|all]`: consistency of a qcow2 image with qemu-img's words and exit codes (qapi/block-core.json:
 * ImageCheck; asked of QEMU 7.2). Findings go to standard error, one line each.
 */
import { ColoError, messageOf } from '../../base/errors.ts';
import { BlockGraph } from '../../block/graph.ts';
import type { BlockNode } from '../../block/node.ts';
import { checkQcow2 } from '../../block/drivers/qcow2/check.ts';
import type { CheckReport } from '../../block/drivers/qcow2/check.ts';
import { readQcow2Info } from '../../block/drivers/qcow2/open.ts';
import { repairRefcounts } from '../../block/drivers/qcow2/repair.ts';
import { PROBE_BYTES, probeFormat } from '../../block/probe.ts';
import { openImage, shownName, treeOf } from './common.ts';
import type { ImageName, OutputForm } from './common.ts';
import { prettyJson } from './info-json.ts';
import type { ImgIo } from './io.ts';
import { report } from './io.ts';

export interface CheckRequest {
  readonly output: OutputForm;
  readonly repair?: 'leaks' | 'all' | undefined;
  readonly quiet?: boolean | undefined;
}

interface Fixed {
  readonly leaks: number;
  readonly corruptions: number;
}

/** 0 clean, 1 the check could not run, 2 errors, 3 leaks only, 63 nothing to check in this format. */
export async function checkCommand(io: ImgIo, image: ImageName, request: CheckRequest): Promise<number> {
  const graph = new BlockGraph();
  try {
    const file = await openFileOf(graph, image, request.repair === undefined);
    if (!file) {
      report(io, 'This image format does not support checks');
      return 63;
    }
    const { found, fixed } = await checkFile(image, file, request.repair);
    for (const line of found.messages) io.err(`${line}\n`);
    if (!request.quiet) {
      if (request.output === 'json')
        io.out(`${prettyJson(asJson(shownName(file, image.text), found, fixed))}\n`);
      else io.out(repaired(fixed) + explained(found));
    }
    if (found.errors > 0) return 2;
    return found.leaks > 0 ? 3 : 0;
  } finally {
    await graph.closeAll();
  }
}

/** The file below a qcow2 image; null: another format. Throws ColoError. */
async function openFileOf(graph: BlockGraph, image: ImageName, readOnly: boolean): Promise<BlockNode | null> {
  const options = treeOf(image);
  const format = image.format ?? options['driver'];
  const { file } = options;
  if (typeof file !== 'object') {
    const node = await openImage(graph, image, readOnly);
    return node.driver.driverName === 'qcow2' ? (node.driver.children().get('file') ?? null) : null;
  }
  // Not opened as qcow2: a broken image has to be checked too.
  const node = await openImage(graph, { ...image, format: 'raw' }, readOnly);
  const below = node.driver.children().get('file') ?? node;
  const head = new Uint8Array(Math.min(PROBE_BYTES, below.lengthBytes));
  await below.read(0, head);
  if (format !== undefined && format !== 'qcow2') {
    if (format !== 'raw') await openImage(graph, image, readOnly);
    return null;
  }
  return format === 'qcow2' || probeFormat(head) === 'qcow2' ? below : null;
}

async function checkFile(
  image: ImageName,
  file: BlockNode,
  repair: CheckRequest['repair'],
): Promise<{ found: CheckReport; fixed: Fixed }> {
  const header = await readQcow2Info(file, repair !== undefined).then(
    (info) => info.header,
    (cause: unknown) => {
      throw new ColoError(`Could not open '${image.text}': ${messageOf(cause)}`, { cause });
    },
  );
  if (repair === undefined)
    return { found: await checkQcow2(file, header), fixed: { leaks: 0, corruptions: 0 } };
  const { leaksFixed, errorsFixed, after } = await repairRefcounts(file, header, repair);
  return { found: after, fixed: { leaks: leaksFixed, corruptions: errorsFixed } };
}

function asJson(filename: string, found: CheckReport, fixed: Fixed): Record<string, string | number> {
  const counts: Record<string, number> = {
    corruptions: found.errors,
    leaks: found.leaks,
    'corruptions-fixed': fixed.corruptions,
    'leaks-fixed': fixed.leaks,
    'allocated-clusters': found.allocatedClusters,
    'fragmented-clusters': found.fragmentedClusters,
    'compressed-clusters': found.compressedClusters,
    'total-clusters': found.totalClusters,
  };
  return {
    'image-end-offset': found.imageEndOffset,
    'check-errors': 0,
    ...Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0)),
    filename,
    format: 'qcow2',
  };
}

function repaired({ leaks, corruptions }: Fixed): string {
  if (leaks + corruptions === 0) return '';
  return (
    `The following inconsistencies were found and repaired:\n\n    ${leaks} leaked clusters\n` +
    `    ${corruptions} corruptions\n\nDouble checking the fixed image now...\n`
  );
}

function explained(found: CheckReport): string {
  let text = found.errors === 0 && found.leaks === 0 ? 'No errors were found on the image.\n' : '';
  if (found.errors > 0) {
    text +=
      `\n${found.errors} errors were found on the image.\n` +
      'Data may be corrupted, or further writes to the image may corrupt it.\n';
  }
  if (found.leaks > 0) {
    text +=
      `\n${found.leaks} leaked clusters were found on the image.\n` +
      'This means waste of disk space, but no harm to data.\n';
  }
  const { allocatedClusters: allocated, totalClusters: total } = found;
  if (allocated > 0 && total > 0) {
    const percent = (part: number, whole: number): string => ((100 * part) / whole).toFixed(2);
    text +=
      `${allocated}/${total} = ${percent(allocated, total)}% allocated, ` +
      `${percent(found.fragmentedClusters, allocated)}% fragmented, ` +
      `${percent(found.compressedClusters, allocated)}% compressed clusters\n`;
  }
  return found.imageEndOffset > 0 ? `${text}Image end offset: ${found.imageEndOffset}\n` : text;
}
