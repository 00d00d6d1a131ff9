/**
 * The tables of docs/compare.md are true: each row's frames are given to QEMU's colo-compare and to ours, and both do
 * what their columns say. Rows without a reason have to be alike step by step, rows with one have to differ.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { qemuVersion } from '../../helpers/bare-process.ts';
import { Bench } from './compare-bench.ts';
import type { Kind } from './compare-bench.ts';
import { DATAGRAM_CASES, MALFORMED_CASES, OTHER_CASES, Peer, TCP_CASES, verdictOf } from './compare-cases.ts';
import type { CompareCase } from './compare-cases.ts';
import { LIMIT_CASES } from './compare-limits.ts';

interface Row {
  readonly verdicts: Readonly<Record<Kind, string>>;
  readonly reason: string;
}

const PAGE = readFileSync(new URL('../../../docs/compare.md', import.meta.url), 'utf8');
const ROWS = new Map<string, Row>();
for (const line of PAGE.split('\n')) {
  const cells = /^\| (.*) \|$/
    .exec(line)?.[1]
    ?.split(' | ')
    .map((cell) => cell.trim());
  const [name = '', qemu = '', ours = '', reason = ''] = cells ?? [];
  if (cells?.length !== 4 || name === 'case' || name.startsWith('--')) continue;
  assert.ok(!ROWS.has(name), `docs/compare.md: two rows for ${name}`);
  ROWS.set(name, { verdicts: { qemu, ours }, reason });
}

const KINDS: readonly Kind[] = qemuVersion?.startsWith('7.2') === true ? ['ours', 'qemu'] : ['ours'];
const NOT_COMPARED = `QEMU 7.2 is not installed (found: ${qemuVersion ?? 'none'}): only our column was checked`;

function rowOf(name: string): Row {
  const row = ROWS.get(name);
  assert.ok(row, `docs/compare.md has no row for: ${name}`);
  return row;
}

/** The table's rows as they should be, where they are not. */
function check(name: string, verdicts: Partial<Record<Kind, string>>, wrong: string[]): void {
  const { verdicts: said, reason } = rowOf(name);
  for (const kind of KINDS) {
    if (verdicts[kind] !== said[kind])
      wrong.push(`${name}: ${kind}: ${verdicts[kind] ?? ''}, said: ${said[kind]}`);
  }
  if ((said.qemu === said.ours) === (reason !== '')) {
    wrong.push(
      `${name}: ${reason === '' ? 'a difference without a reason' : 'a reason without a difference'}`,
    );
  }
}

test('every case has a row, and every row a case', () => {
  const names = [...TCP_CASES, ...DATAGRAM_CASES, ...OTHER_CASES, ...MALFORMED_CASES, ...LIMIT_CASES].map(
    ({ name }) => name,
  );
  assert.deepEqual([...ROWS.keys()].toSorted(), names.toSorted());
});

const GROUPS: readonly [string, readonly CompareCase[]][] = [
  ['TCP', TCP_CASES],
  ['datagrams', DATAGRAM_CASES],
  ['what QEMU does not compare', OTHER_CASES],
  ['malformed packets', MALFORMED_CASES],
];

for (const [title, cases] of GROUPS) {
  test(`cases: ${title}`, async (t) => {
    if (KINDS.length === 1) t.diagnostic(NOT_COMPARED);
    const benches = new Map<Kind, Bench>();
    const wrong: string[] = [];
    try {
      for (const kind of KINDS) benches.set(kind, await Bench.make(kind));
      for (const [at, { name, steps: make }] of cases.entries()) {
        const steps = make(new Peer(at + 1));
        const verdicts: Partial<Record<Kind, string>> = {};
        const released: string[] = [];
        for (const [kind, bench] of benches) {
          const outcome = await bench.play(steps);
          verdicts[kind] = verdictOf(steps, outcome);
          released.push(JSON.stringify(outcome.released));
        }
        check(name, verdicts, wrong);
        const areAlike = released.every((text) => text === released[0]);
        if (rowOf(name).reason === '' && !areAlike) wrong.push(`${name}: alike, but not step by step`);
      }
    } finally {
      for (const bench of benches.values()) await bench.close();
    }
    assert.equal(wrong.join('\n'), '');
  });
}

for (const { name, options, run } of LIMIT_CASES) {
  test(`case: ${name}`, async (t) => {
    if (KINDS.length === 1) t.diagnostic(NOT_COMPARED);
    const wrong: string[] = [];
    const verdicts: Partial<Record<Kind, string>> = {};
    for (const kind of KINDS) {
      const bench = await Bench.make(kind, options);
      try {
        verdicts[kind] = await run(bench);
      } finally {
        await bench.close();
      }
    }
    check(name, verdicts, wrong);
    assert.equal(wrong.join('\n'), '');
  });
}
