/** `colo img check [-r leaks|all]`: consistency of a qcow2 image, with qemu-img's words and exit codes. */
import { BlockGraph } from '../../block/graph.ts';
import { checkQcow2 } from '../../block/drivers/qcow2/check.ts';
import type { CheckReport } from '../../block/drivers/qcow2/check.ts';
import { readQcow2Info } from '../../block/drivers/qcow2/open.ts';
import { repairRefcounts } from '../../block/drivers/qcow2/repair.ts';
import { PROBE_BYTES, parseFilename, probeFormat } from '../../block/probe.ts';
import { print } from './common.ts';

export interface CheckRequest {
  readonly format?: string;
  readonly output: 'human' | 'json';
  readonly repair?: 'leaks' | 'all';
  readonly forceShare?: boolean;
}

/** 0 clean, 1 the check could not run, 2 errors, 3 leaks only, 63 nothing to check in this format. */
export async function checkCommand(name: string, request: CheckRequest): Promise<number> {
  const graph = new BlockGraph();
  try {
    const share = request.forceShare ? { 'force-share': 'on' } : {};
    const readOnly = request.repair ? {} : { 'read-only': 'on' };
    const file = await graph.addNode({ ...parseFilename(name), ...share, ...readOnly, 'node-name': 'image' });
    const head = new Uint8Array(Math.min(PROBE_BYTES, file.lengthBytes));
    await file.read(0, head);
    if ((request.format ?? probeFormat(head)) !== 'qcow2') {
      process.stderr.write('colo img: This image format does not support checks\n');
      return 63;
    }
    const { header } = await readQcow2Info(file, request.repair !== undefined);
    let report: CheckReport;
    if (request.repair) {
      const { leaksFixed, errorsFixed, after } = await repairRefcounts(file, header, request.repair);
      if (request.output === 'human' && leaksFixed + errorsFixed > 0) {
        print(
          `The following inconsistencies were found and repaired:\n\n    ${leaksFixed} leaked clusters\n    ${errorsFixed} corruptions\n`,
        );
        print('Double checking the fixed image now...');
      }
      report = after;
    } else report = await checkQcow2(file, header);
    if (request.output === 'json') print(JSON.stringify(asJson(name, report), null, 4));
    else explain(report);
    if (report.errors > 0) return 2;
    return report.leaks > 0 ? 3 : 0;
  } finally {
    await graph.closeAll();
  }
}

function asJson(name: string, report: CheckReport): Record<string, unknown> {
  return {
    'image-end-offset': report.imageEndOffset,
    'total-clusters': report.totalClusters,
    'check-errors': 0,
    ...(report.errors > 0 ? { corruptions: report.errors } : {}),
    ...(report.leaks > 0 ? { leaks: report.leaks } : {}),
    ...(report.allocatedClusters > 0 ? { 'allocated-clusters': report.allocatedClusters } : {}),
    ...(report.fragmentedClusters > 0 ? { 'fragmented-clusters': report.fragmentedClusters } : {}),
    ...(report.compressedClusters > 0 ? { 'compressed-clusters': report.compressedClusters } : {}),
    filename: name,
    format: 'qcow2',
  };
}

function explain(report: CheckReport): void {
  for (const line of report.messages) process.stderr.write(`${line}\n`);
  if (report.errors === 0 && report.leaks === 0) print('No errors were found on the image.');
  if (report.errors > 0) {
    print(`\n${report.errors} errors were found on the image.`);
    print('Data may be corrupted, or further writes to the image may corrupt it.');
  }
  if (report.leaks > 0) {
    print(`\n${report.leaks} leaked clusters were found on the image.`);
    print('This means waste of disk space, but no harm to data.');
  }
  const { allocatedClusters: allocated, totalClusters: total } = report;
  if (allocated > 0 && total > 0) {
    const percent = (part: number, whole: number): string => ((100 * part) / whole).toFixed(2);
    print(
      `${allocated}/${total} = ${percent(allocated, total)}% allocated, ` +
        `${percent(report.fragmentedClusters, allocated)}% fragmented, ` +
        `${percent(report.compressedClusters, allocated)}% compressed clusters`,
    );
  }
  print(`Image end offset: ${report.imageEndOffset}`);
}
