/** What the tables and bars of a cluster say, and what a narrow terminal loses. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fittedTable } from '../../../src/cli/cluster/fitted.ts';
import { isUnicodeTerminal, KEPT_PAUSES, PauseHistory, sparkline } from '../../../src/cli/cluster/pauses.ts';
import { barLine, ResyncMeter } from '../../../src/cli/cluster/resync.ts';
import { hostTable } from '../../../src/cli/cluster/status.ts';
import { topLines, type TopState } from '../../../src/cli/cluster/top-view.ts';
import { vmTable } from '../../../src/cli/cluster/vm-table.ts';
import { cutPainted, painted, SGR, wantsColours } from '../../../src/cli/style.ts';
import type { VmView } from '../../../src/ha/views.ts';
import { HOST, VM } from '../../helpers/false-node.ts';

const PROTECTED: VmView = {
  ...VM,
  name: 'db',
  state: 'protected',
  reason: 'whole',
  // The host that speaks for it knows its own process alone.
  copies: [{ host: 'alpha', role: 'primary', pid: 4711 }],
  checkpoints: { count: 9, perSecond: 0.5, byCause: { timer: 9 }, lastPauseMs: 8, lastAtMs: 98_766 },
  lastFailover: { atMs: 40_000, from: 'gamma', to: 'alpha', reason: 'gamma was silent' },
};
const view = { nowMs: 100_000 };

test('status has a row a copy: role, state, epoch, lag, RAM, checkpoints, the last failover', () => {
  const lines = vmTable([VM, PROTECTED], view);
  const cells = lines
    .filter((line) => line.startsWith('| '))
    .map((line) =>
      line
        .slice(1, -1)
        .split('|')
        .map((cell) => cell.trim()),
    );
  assert.deepEqual(cells, [
    ['VM', 'Role', 'Host', 'State', 'Epoch', 'Lag', 'RAM', 'Ckpt/s', 'Last failover'],
    ['db', 'primary', 'alpha', 'protected', '7', '', '128 MiB', '0.5', '60 s ago, from gamma'],
    ['db', 'secondary', 'beta', 'running', '7', '1.2 s', '128 MiB', '', ''],
    ['web1', 'primary', 'alpha', 'syncing', '7', '', '128 MiB', '2.5', '-'],
    ['web1', 'joining', 'beta', 'resync 25%', '7', '1.5 KiB', '128 MiB', '', ''],
  ]);
  assert.match(lines[0] ?? '', /^\+ 2 VMs: 1 syncing, 1 protected -+/);
  // Why: of those that are not protected.
  assert.deepEqual(lines.slice(-1), ["web1: syncing for 0 s: the disks are being copied to 'beta'"]);
  const down: VmView = { ...VM, state: 'down', isWanted: false, primary: null, secondary: null, copies: [] };
  assert.match(vmTable([down], view)[3] ?? '', /^\| web1 \| - +\| - +\| down +\|/);
  assert.equal(vmTable([down], view).length, 5);
});

test('a narrow terminal loses what matters least, and no line is wider than it can be', () => {
  const headsAt = (width: number | undefined): string =>
    (vmTable([VM, PROTECTED], { ...view, width })[1] ?? '').replace(/[ |]+/g, ' ').trim();
  assert.equal(headsAt(undefined), 'VM Role Host State Epoch Lag RAM Ckpt/s Last failover');
  assert.equal(headsAt(95), 'VM Role Host State Epoch Lag Ckpt/s Last failover');
  assert.equal(headsAt(82), 'VM Role Host State Epoch Lag Last failover');
  assert.equal(headsAt(62), 'VM Role Host State Epoch Lag');
  assert.equal(headsAt(53), 'VM Role Host State Lag');
  assert.equal(headsAt(10), 'VM Role Host State');
  for (const width of [46, 60, 80, 100, 200]) {
    for (const line of [
      ...vmTable([PROTECTED], { ...view, width }),
      ...hostTable([HOST], { nowMs: 0, width }),
    ])
      assert.ok(line.length <= width, `${width}: ${line}`);
    const state: TopState = {
      order: 'n',
      isReversed: false,
      where: 'w',
      trouble: null,
      skip: 0,
      columns: width,
    };
    for (const line of topLines({ atMs: 0, vms: [PROTECTED] }, null, state, 20).slice(2))
      assert.ok(line.length <= width, `${width}: ${line}`);
  }
  assert.match(
    fittedTable([{ head: 'A' }], [['1234567890']], { title: 'far too long' })[0] ?? '',
    /^\+ far too … -+\+$/,
  );
});

test('colours change no width, and a line that is cut ends them', () => {
  const plain = vmTable([VM, PROTECTED], view);
  const coloured = vmTable([VM, PROTECTED], { ...view, paint: painted });
  assert.deepEqual(
    coloured.map((line) => line.replace(SGR, '')),
    plain,
  );
  assert.match(coloured.join('\n'), /\x1b\[32mprotected/);
  assert.equal(cutPainted(painted('red', 'abcdef'), 3), '\x1b[31mabc\x1b[0m');
  assert.equal(cutPainted('abcdef', 3), 'abc');
  assert.equal(cutPainted(painted('red', 'abc'), 3), painted('red', 'abc'));
});

test('who gets colours', () => {
  const terminal = { isTTY: true };
  const cases: [object, Record<string, string>, boolean, boolean][] = [
    [terminal, {}, true, true],
    [terminal, { NO_COLOR: '1' }, true, false],
    [terminal, { NO_COLOR: '' }, true, true],
    [terminal, { TERM: 'dumb' }, true, false],
    [terminal, {}, false, false],
    [terminal, { FORCE_COLOR: '0' }, true, false],
    [{}, {}, true, false],
    [{}, { FORCE_COLOR: '1' }, true, true],
    [{}, { FORCE_COLOR: '1' }, false, false],
    [{}, { FORCE_COLOR: '1', NO_COLOR: '1' }, true, false],
  ];
  for (const [stream, env, may, expected] of cases)
    assert.equal(wantsColours(stream, env, may), expected, JSON.stringify([stream, env, may]));
});

test('a resync has a rate and the time that is left, from its own beginning', () => {
  const meter = new ResyncMeter();
  const at = (doneBytes: number, totalBytes = 1000 * 1024): VmView => ({
    ...VM,
    copies: [{ host: 'beta', role: 'joining', pid: null, resync: { doneBytes, totalBytes } }],
  });
  assert.equal(meter.look(VM, 0)?.fraction, 0.25);
  assert.equal(meter.look(at(0), 1000)?.text, 'web1: disks to beta, 0 B of 1000 KiB');
  const later = meter.look(at(500 * 1024), 6000);
  assert.equal(later?.text, 'web1: disks to beta, 500 KiB of 1000 KiB, 100 KiB/s, 5 s left');
  assert.match(barLine(later), /^\[={12}-{12}\] 50% web1: /);
  // Begun anew: nothing of before counts.
  assert.equal(meter.look(at(10 * 1024), 7000)?.text, 'web1: disks to beta, 10.0 KiB of 1000 KiB');
  assert.equal(meter.look({ ...VM, copies: [] }, 8000), null);
  assert.equal(meter.look(at(0, 0), 9000)?.fraction, 1);
});

test('the sparkline shows the newest pauses, one a checkpoint', () => {
  const history = new PauseHistory();
  const after = (count: number, lastPauseMs: number | null): VmView => ({
    ...VM,
    checkpoints: { count, perSecond: 1, byCause: {}, lastPauseMs, lastAtMs: null },
  });
  history.note([after(0, null)]);
  for (const [count, pause] of [
    [1, 10],
    [1, 10],
    [2, 80],
    [3, 40],
  ] as const)
    history.note([after(count, pause)]);
  assert.deepEqual(history.of('web1'), [10, 80, 40]);
  assert.equal(sparkline(history.of('web1')), '▂█▅');
  assert.equal(sparkline([10, 80, 40], false), '.#+');
  assert.equal(sparkline([0, 0]), '▁▁');
  for (let count = 4; count < 40; count++) history.note([after(count, count)]);
  assert.equal(history.of('web1').length, KEPT_PAUSES);
  const state: TopState = {
    order: 'n',
    isReversed: false,
    where: 'w',
    trouble: null,
    skip: 0,
    pauses: history,
  };
  assert.match(topLines({ atMs: 0, vms: [VM] }, null, state, 20).join('\n'), /\| ▆[▆▇█]+█ +\|/);
  history.note([]);
  assert.deepEqual(history.of('web1'), []);
  assert.deepEqual(
    [{ LANG: 'C.UTF-8' }, { LANG: 'C.UTF-8', LC_ALL: 'C' }, {}].map((env) => isUnicodeTerminal(env)),
    [true, false, false],
  );
});
