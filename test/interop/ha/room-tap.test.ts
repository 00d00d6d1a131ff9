/** A VM on a bridge of its host: the TAP device is there as long as the process is, whoever started it. Needs root. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { COLO, until } from '../../helpers/colo.ts';
import { RoomDaemon, bareSpec, roomFolder } from '../../helpers/room-rig.ts';
import { whyNoTap } from '../net/why-no-tap.ts';

process.env['COLO_PROGRAM'] = COLO;
const run = promisify(execFile);
const NAMESPACE = `colo-room-${process.pid}`;
const SPEC = bareSpec('web', ['-machine', 'none', '-netdev', 'tap,id=hn0,ifname=web.0,br=br-room']);

async function ports(): Promise<unknown[]> {
  const { stdout } = await run('ip', ['-n', NAMESPACE, '-json', 'link', 'show', 'master', 'br-room']);
  const links = JSON.parse(stdout.trim() === '' ? '[]' : stdout) as { ifname?: string; flags?: string[] }[];
  return links
    .filter(({ ifname }) => ifname !== undefined)
    .map(({ ifname, flags }) => [ifname, flags?.includes('UP')]);
}

test('the TAP device of a NIC in a bridge', { skip: whyNoTap() }, async (t) => {
  await run('ip', ['netns', 'add', NAMESPACE]);
  t.after(() => run('ip', ['netns', 'del', NAMESPACE]));
  await run('ip', ['-n', NAMESPACE, 'link', 'add', 'br-room', 'type', 'bridge']);
  const folder = await roomFolder(t);
  const inside = ['ip', 'netns', 'exec', NAMESPACE];

  await t.test('is kept through the death of the daemon and goes with the process', async () => {
    const first = new RoomDaemon(t, folder, 'start', SPEC, inside);
    const { pid } = (await first.told('pid')) as { pid: number };
    assert.deepEqual(await ports(), [['web.0', true]]);
    await first.end('SIGKILL');
    assert.deepEqual(await ports(), [['web.0', true]]);
    process.kill(pid, 'SIGKILL');
    await until('the device goes', 60_000, async () => (await ports()).length === 0);
  });

  await t.test('cannot be had without the privilege, and the error says so', async () => {
    const bound = ['setpriv', '--bounding-set', '-net_admin', '--inh-caps', '-net_admin'];
    const daemon = new RoomDaemon(t, folder, 'start', SPEC, [...inside, ...bound]);
    assert.match(
      String((await daemon.told('error'))['error']),
      /VM 'web' ended at its start with status 1: .*web\.0.*Operation not permitted; it needs CAP_NET_ADMIN/,
    );
    await daemon.end('SIGKILL');
  });
});
