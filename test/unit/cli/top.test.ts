/** `colo top`: what it shows, its lines for a pipe, and on a terminal its keys and that the old screen comes back. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { ApiServer } from '../../../src/api/http-server.ts';
import { frame } from '../../../src/cli/cluster/screen.ts';
import {
  ratesByCause,
  topLines,
  topPlain,
  topRows,
  type Look,
  type TopState,
} from '../../../src/cli/cluster/top-view.ts';
import type { VmView } from '../../../src/ha/views.ts';
import { coloHere } from '../../helpers/colo-here.ts';
import { falseNode, VM } from '../../helpers/false-node.ts';
import { Pty } from '../../helpers/pty.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'top-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const counted = (count: number, timer: number, mismatch: number): NonNullable<VmView['checkpoints']> => ({
  count,
  perSecond: 2.5,
  byCause: { timer, mismatch },
  lastPauseMs: 12.4,
  lastAtMs: 9_000,
});
const look = (atMs: number, checkpoints: VmView['checkpoints']): Look => ({
  atMs,
  vms: [checkpoints ? { ...VM, checkpoints } : VM],
});
const STATE: TopState = { order: 'n', isReversed: false, where: 'unix:/s', trouble: null, skip: 0 };

test('a row has state, epoch, hosts, the last checkpoint, and rates by cause from look to look', () => {
  const before = look(8_000, counted(10, 8, 2));
  const now = look(12_000, counted(20, 10, 10));
  assert.deepEqual(ratesByCause(now.vms[0]!, before, now.atMs), { timer: 0.5, mismatch: 2 });
  assert.deepEqual(topRows(now, before, STATE), [
    [
      'web1',
      'syncing',
      '7',
      'alpha',
      'beta',
      '3 s',
      '12 ms',
      '2.5',
      'mismatch 2.0, timer 0.5',
      '25% of 2.0 KiB',
    ],
  ]);
  // A primary that has changed counts anew.
  assert.equal(ratesByCause(look(13_000, counted(3, 3, 0)).vms[0]!, now, 13_000), null);
  assert.equal(ratesByCause(now.vms[0]!, null, now.atMs), null);
  assert.match(
    topPlain(now, null, STATE)[0]!,
    /^1970-01-01T00:00:12.000Z vm=web1 state=syncing epoch=7 .* last="3 s" .* causes=- /,
  );
});

test('sorting, scrolling, and a look that failed', () => {
  const vms = Array.from('abcdefghij').map((name, at): VmView => ({ ...VM, name, epoch: at, copies: [] }));
  const many: Look = { atMs: 0, vms };
  const names = (state: TopState, rows = 50): string[] =>
    topLines(many, null, state, rows).flatMap((line) => /^\| ([a-j]) +\|/.exec(line)?.[1] ?? []);
  assert.equal(names(STATE).join(''), 'abcdefghij');
  assert.equal(names({ ...STATE, isReversed: true }).join(''), 'jihgfedcba');
  assert.equal(names({ ...STATE, order: 'e' }).join(''), 'jihgfedcba');
  assert.equal(names({ ...STATE, skip: 2 }, 10).join(''), 'cde');
  assert.equal(topLines(many, null, STATE, 10).length, 10);
  assert.equal(topLines(many, null, STATE, 10).at(-1), '7 more: 0 above, 7 below');
  assert.match(topLines(many, null, { ...STATE, trouble: 'gone\x1b' }, 50)[1]!, /^not reached: gone\?$/);
  assert.match(topLines({ atMs: 0, vms: [] }, null, STATE, 50).join('\n'), /colo up/);
});

test('a frame clears nothing before it writes, never wraps and never scrolls', () => {
  assert.equal(frame(['abcdef', 'g', 'h'], 3, 2), '\x1b[?2026h\x1b[Habc\x1b[K\r\ng\x1b[K\x1b[J\x1b[?2026l');
  assert.equal(frame(['abc'], 0, 0), '\x1b[?2026h\x1b[Habc\x1b[K\x1b[J\x1b[?2026l');
});

async function nodeAt(t: { after: (done: () => Promise<void>) => void }, name: string): Promise<string> {
  const server = await ApiServer.listen({ path: path.join(folder, name) }, { node: falseNode() });
  t.after(() => server.close());
  return server.address;
}

test('without a terminal: a line a VM, or JSON', async (t) => {
  const node = await nodeAt(t, 'plain.sock');
  const plain = await coloHere('top', '--node', node, '-n', '2', '-d', '0.1');
  assert.equal(plain.status, 0);
  assert.match(plain.out, /^(\S+Z vm=web1 state=syncing epoch=7 [^\n]*\n){2}$/);
  const json = await coloHere('top', '--node', node, '-n', '1', '--json');
  assert.deepEqual(JSON.parse(json.out), [VM]);
});

const noPython = spawnSync('python3', ['--version']).status !== 0;
test(
  'on a terminal: keys, and the old screen again after q and after a signal',
  { skip: noPython && 'no python3' },
  async (t) => {
    const node = await nodeAt(t, 'live.sock');
    for (const end of ['q', 'SIGTERM', '\x03'] as const) {
      const top = new Pty(['top', '--node', node, '-d', '60', '--no-color']);
      t.after(() => top.kill());
      const pid = await top.pid();
      await top.see(/\x1b\[\?1049h/);
      await top.see(/\| web1 +\| syncing/);
      top.type('p');
      await top.see(/by pause;/);
      top.type('r');
      await top.see(/by pause, reversed/);
      if (end === 'SIGTERM') process.kill(pid, end);
      else top.type(end);
      await top.see(/\x1b\[\?25h\x1b\[\?1049l/);
      assert.equal(await top.ended(), end === 'SIGTERM' ? 128 + 15 : 0);
    }
  },
);
