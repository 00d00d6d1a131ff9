/** The same damage repaired by us and by qemu-img: qemu-img's verdict afterwards is the same, or ours is better by name. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FileDriver } from '../../../src/block/drivers/file.ts';
import { checkQcow2 } from '../../../src/block/drivers/qcow2/check.ts';
import { readQcow2Info } from '../../../src/block/drivers/qcow2/open.ts';
import { repairRefcounts } from '../../../src/block/drivers/qcow2/repair.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { inFolder, missingTools, runTool, tool } from './helpers.ts';

const CLUSTER = 4096;
const COPIED = 1n << 63n;
const OFFSET = (1n << 56n) - 512n;

/** Where things lie in the image under test. */
interface Places {
  readonly l1: number;
  readonly table: number;
  readonly block: number;
  /** L2 tables: two with data, one with a compressed cluster. */
  readonly l2: readonly [number, number, number];
  readonly packed: number;
  /** Clusters of the file. */
  readonly end: number;
}

type Damage = (image: Buffer, places: Places) => void;

const set = (image: Buffer, at: number, value: bigint): void =>
  void image.writeBigUInt64BE(BigInt.asUintN(64, value), at);
const get = (image: Buffer, at: number): bigint => image.readBigUInt64BE(at);
const clusterAt = (image: Buffer, at: number): number => Number(get(image, at) & OFFSET) / CLUSTER;
const count = (image: Buffer, { block }: Places, cluster: number, value: number): void =>
  void image.writeUInt16BE(value, block + cluster * 2);

const DAMAGES: Record<string, Damage> = {
  'a free cluster is counted': (image, p) => count(image, p, p.end - 1, 1),
  'a count is too high': (image, p) => count(image, p, clusterAt(image, p.l2[0] + 40), 2),
  'a count is 0': (image, p) => count(image, p, clusterAt(image, p.l2[0] + 40), 0),
  'the count of an L2 table is 0': (image, p) => count(image, p, p.l2[0] / CLUSTER, 0),
  'a count is too high, the flag agrees': (image, p) => {
    count(image, p, clusterAt(image, p.l2[0] + 40), 7);
    set(image, p.l2[0] + 40, get(image, p.l2[0] + 40) & ~COPIED);
  },
  'a data cluster lacks its flag': (image, p) => set(image, p.l2[0] + 40, get(image, p.l2[0] + 40) & ~COPIED),
  'an L2 table lacks its flag': (image, p) => set(image, p.l1, get(image, p.l1) & ~COPIED),
  'two entries for one cluster': (image, p) => set(image, p.l2[0] + 40, get(image, p.l2[0] + 48)),
  'entries of two tables for one cluster': (image, p) => {
    set(image, p.l2[0] + 40, get(image, p.l2[1]));
    set(image, p.l2[0] + 48, get(image, p.l2[1]));
  },
  'two L1 entries for one table': (image, p) => set(image, p.l1 + 8, get(image, p.l1)),
  'data in an L2 table': (image, p) => set(image, p.l2[0] + 40, COPIED | BigInt(p.l2[1])),
  'data in the refcount table': (image, p) => set(image, p.l2[0] + 40, COPIED | BigInt(p.table)),
  'an entry that is not aligned': (image, p) => set(image, p.l2[0] + 40, get(image, p.l2[0] + 40) + 512n),
  'a zero cluster that is not aligned': (image, p) =>
    set(image, p.l2[0] + 40, (get(image, p.l2[0] + 40) + 512n) | 1n),
  'an entry behind the end': (image, p) => set(image, p.l2[0] + 40, COPIED | BigInt((p.end + 999) * CLUSTER)),
  'an entry far behind the end': (image, p) => set(image, p.l2[0] + 40, COPIED | (1n << 54n)),
  'an L1 entry behind the end': (image, p) => set(image, p.l1, COPIED | BigInt((p.end + 999) * CLUSTER)),
  'an L1 entry that is not aligned': (image, p) => set(image, p.l1, get(image, p.l1) + 512n),
  'reserved bits in an L2 entry': (image, p) =>
    set(image, p.l2[0] + 40, get(image, p.l2[0] + 40) | (1n << 58n)),
  'reserved bits in an L1 entry': (image, p) => set(image, p.l1, get(image, p.l1) | (1n << 58n)),
  'a compressed cluster behind the end': (image, p) => set(image, p.packed, (1n << 62n) | (1n << 40n)),
  'a compressed cluster with the flag': (image, p) => set(image, p.packed, get(image, p.packed) | COPIED),
  'a flag and nothing else': (image, p) => set(image, p.l2[0] + 8 * 300, COPIED),
  'no refcount block': (image, p) => set(image, p.table, 0n),
  'a refcount block that is not aligned': (image, p) => set(image, p.table, BigInt(p.block + 512)),
  'a refcount block behind the end': (image, p) => set(image, p.table, BigInt((p.end + 999) * CLUSTER)),
  'a refcount block twice': (image, p) => set(image, p.table + 8, BigInt(p.block)),
  'reserved bits in the refcount table': (image, p) => set(image, p.table, BigInt(p.block) | 1n),
  'all counts 0': (image, p) => void image.fill(0, p.block, p.block + CLUSTER),
  'all counts 3': (image, p) => void image.fill(Buffer.from([0, 3]), p.block, p.block + CLUSTER),
};
/** Damage that QEMU 7.2 does not repair and we do, as nothing is lost by it. */
const BETTER = new Set([
  'a compressed cluster with the flag',
  'a refcount block that is not aligned',
  'reserved bits in the refcount table',
]);

async function ourRepair(image: string, what: 'leaks' | 'all'): Promise<number> {
  const node = new BlockNode('image', await FileDriver.open(image));
  try {
    const { header } = await readQcow2Info(node, true);
    const before = await checkQcow2(node, header);
    const { after, errorsFixed, leaksFixed } = await repairRefcounts(node, header, what);
    assert.ok(errorsFixed <= before.errors && leaksFixed <= before.leaks);
    return after.errors > 0 ? 2 : after.leaks > 0 ? 3 : 0;
  } finally {
    await node.close();
  }
}

describe('qcow2 repair beside qemu-img check -r', { skip: missingTools }, () => {
  it('of every kind of damage', { timeout: 120_000 }, () =>
    inFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', at('good'), '8M');
      const writes = ['write -P 1 0 200k', 'write -P 2 4M 100k', 'write -c -P 3 6M 4k'];
      await tool('qemu-io', '-f', 'qcow2', ...writes.flatMap((line) => ['-c', line]), at('good'));
      const good = await readFile(at('good'));
      const l1 = Number(get(good, 40));
      const table = Number(get(good, 48));
      const tables = [0, 2, 3].map((index) => Number(get(good, l1 + index * 8) & OFFSET));
      const [a = 0, b = 0, c = 0] = tables;
      assert.ok(a > 0 && b > 0 && c > 0, 'tables where they are expected');
      const places: Places = {
        ...{ l1, table, block: Number(get(good, table)), l2: [a, b, c], packed: c },
        end: Math.ceil(good.byteLength / CLUSTER),
      };
      assert.notEqual(get(good, c), 0n);
      for (const [what, damage] of Object.entries(DAMAGES)) {
        const image = Buffer.from(good);
        damage(image, places);
        await writeFile(at('damaged'), image);
        const found = await runTool('qemu-img', 'check', '-f', 'qcow2', at('damaged'));
        const info = new BlockNode('image', await FileDriver.open(at('damaged'), { readOnly: true }));
        const report = await checkQcow2(info, (await readQcow2Info(info, false)).header);
        await info.close();
        const verdict = report.errors > 0 ? 2 : report.leaks > 0 ? 3 : 0;
        // Where the refcount table is unreadable QEMU cannot finish its check (1).
        assert.equal(
          verdict,
          found.code === 1 ? 2 : found.code,
          `${what}: ${report.messages[0] ?? ''}\n${found.stdout}`,
        );
        for (const mode of ['all', 'leaks'] as const) {
          await copyFile(at('damaged'), at('ours'));
          await copyFile(at('damaged'), at('theirs'));
          await runTool('qemu-img', 'check', '-f', 'qcow2', '-r', mode, at('theirs'));
          const own = await ourRepair(at('ours'), mode);
          const ours = await runTool('qemu-img', 'check', '-f', 'qcow2', at('ours'));
          const theirs = await runTool('qemu-img', 'check', '-f', 'qcow2', at('theirs'));
          const title = `${what}, -r ${mode}`;
          assert.equal(
            own,
            ours.code === 1 ? 2 : ours.code,
            `${title}: our own check agrees\n${ours.stdout}`,
          );
          if (!BETTER.has(what))
            assert.equal(ours.code, theirs.code, `${title}\n${ours.stdout}${ours.stderr}`);
          else if (mode === 'all') assert.equal(ours.code, 0, `${title}\n${ours.stdout}${ours.stderr}`);
          if (ours.code !== 0 || theirs.code !== 0) continue;
          await tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', at('ours'), at('theirs'));
        }
      }
    }),
  );
});
