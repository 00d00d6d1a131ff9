import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Netdev } from '../../../src/net/netdev.ts';
import { openTapBackend } from '../../../src/net/netdevs/tap.ts';
import { testFolder } from '../../helpers/bare-process.ts';
import { whyNoQemu } from './qemu.ts';
import { whyNoTap } from './why-no-tap.ts';

const run = promisify(execFile);

test(
  'a TAP on a bridge carries frames both ways, and closing it ends the process',
  { skip: whyNoTap() },
  async () => {
    const namespace = `colo-tap-${process.pid}`;
    const probe = fileURLToPath(new URL('./tap-probe.ts', import.meta.url));
    await run('ip', ['netns', 'add', namespace]);
    try {
      const { stdout } = await run(
        'ip',
        ['netns', 'exec', namespace, process.execPath, '--import', 'tsx', probe],
        { timeout: 30_000 },
      );
      assert.deepEqual(JSON.parse(stdout), { device: 'colotap0', sender: [10, 9, 9, 1] });
    } finally {
      await run('ip', ['netns', 'del', namespace]);
    }
  },
);

test(
  'a TAP with a vnet header on a hub: the header ends at the device, as in QEMU',
  { skip: whyNoTap() || whyNoQemu() },
  async (t) => {
    const namespace = `colo-vnet-${process.pid}`;
    const probe = fileURLToPath(new URL('./tap-vnet-probe.ts', import.meta.url));
    await run('ip', ['netns', 'add', namespace]);
    t.after(() => run('ip', ['netns', 'del', namespace]));
    const { stdout } = await run(
      'ip',
      ['netns', 'exec', namespace, process.execPath, '--import', 'tsx', probe, await testFolder(t)].concat(
        'colo',
        'qemu',
      ),
      { timeout: 30_000 },
    );
    const [ours, theirs] = stdout.trim().split('\n');
    assert.equal(ours, theirs);
    const fill = '00'.repeat(18);
    const reply = { word: 0, frame: `0806 0a0909010200000000070a090902${fill}` };
    const question = { word: 0, frame: `0806 0a090901${fill}` };
    assert.deepEqual(JSON.parse(ours!), { guest: reply, up: reply, down: question });
  },
);

for (const hasHeader of ['on', 'off']) {
  test(
    `large segments go from one kernel to another, whose TAP has vnet_hdr=${hasHeader}`,
    { skip: whyNoTap() },
    async (t) => {
      const names = ['here', 'there'].map((name) => `colo-${name}-${process.pid}`);
      const probe = fileURLToPath(new URL('./tap-offload-probe.ts', import.meta.url));
      for (const name of names) {
        await run('ip', ['netns', 'add', name]);
        t.after(() => run('ip', ['netns', 'del', name]));
      }
      const [here, there] = names as [string, string];
      const { stdout } = await run(
        'ip',
        ['netns', 'exec', here, process.execPath, '--import', 'tsx', probe, there, hasHeader],
        { timeout: 40_000 },
      );
      assert.deepEqual(JSON.parse(stdout), { isWhole: true, isLarge: true });
    },
  );
}

test('what a TAP cannot do here is refused', async () => {
  const netdev = new Netdev({ id: 'hn0' });
  await assert.rejects(openTapBackend(netdev, { type: 'tap', vhost: 'on' }), /vhost=on is not supported/);
  await assert.rejects(openTapBackend(netdev, { type: 'tap', ifname: 'x'.repeat(16) }), /too long/);
  await assert.rejects(openTapBackend(netdev, { type: 'tap', fds: '3' }), {
    message: "Invalid parameter 'fds'",
  });
});
