/**
 * Makes refcounts say what the tables refer to: after an unclean end with lazy refcounts, and for `check -r`. Too low a
 * count is raised before too high a one is lowered. COPIED flags and broken offsets are not touched.
 */
import type { BlockNode } from '../../node.ts';
import { checkQcow2 } from './check.ts';
import type { CheckReport } from './check.ts';
import type { Qcow2Header } from './header.ts';
import { HostFile } from './host-file.ts';
import { Refcounts } from './refcounts.ts';

export interface RepairResult {
  readonly leaksFixed: number;
  readonly errorsFixed: number;
  /** The check after the repair. */
  readonly after: CheckReport;
}

/** `leaks`: lowers counts only; `all`: raises them too. The image is not open otherwise. Throws IoError, Qcow2Error. */
export async function repairRefcounts(
  node: BlockNode,
  header: Qcow2Header,
  what: 'leaks' | 'all',
): Promise<RepairResult> {
  const file = new HostFile(node, 2 ** header.clusterBits);
  const refcounts = await Refcounts.load(file, header);
  const { references, counts } = await checkQcow2(node, header);
  const apply = async (fits: (count: number, wanted: number) => boolean): Promise<number> => {
    let changed = 0;
    for (let cluster = 0; cluster < references.length; cluster++) {
      const wanted = references[cluster] ?? 0;
      if (!fits(counts[cluster] ?? 0, wanted)) continue;
      await refcounts.set(cluster, wanted);
      changed++;
    }
    return changed;
  };
  const errorsFixed = what === 'all' ? await apply((count, wanted) => count < wanted) : 0;
  await file.flush();
  const leaksFixed = await apply((count, wanted) => count > wanted);
  await file.flush();
  return { leaksFixed, errorsFixed, after: await checkQcow2(node, header) };
}
