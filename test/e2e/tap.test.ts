/**
 * A pair on TAP devices of the host (`-netdev tap`), on a bridge in a network namespace that this test makes itself; the
 * client is the host's own TCP, over IPv4 and IPv6. The guest has IPv6 by the configuration that `colo guest --ip6`
 * writes. What was connected before the primary dies goes on: what was opened before the pair was made, what a client has
 * opened since the last checkpoint, and what the guest has.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import {
  createSecondaryDisks,
  demoSpec,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from '../../src/demo/hosts.ts';
import { HOSTS, pairLinks } from '../../src/demo/pair.ts';
import { bootConfig } from '../../src/guest/guest-scripts.ts';
import { ensureTool } from '../../src/guest/host-tools.ts';
import {
  addPrimaryChardevs,
  awaitResync,
  exportSecondaryDisks,
  failoverSecondary,
  resumeReplication,
  startResync,
} from '../../src/ha/procedure.ts';
import type { Machine } from './tap-rig.ts';
import {
  STEP_MS,
  Calls,
  Session,
  CALLING,
  addNamespace,
  firstSession,
  removeNamespace,
  startMachine,
} from './tap-rig.ts';

const run = promisify(execFile);
const image = process.env['COLO_GUEST_IMAGE'];
const skip =
  image === undefined
    ? 'set COLO_GUEST_IMAGE to a guest made by colo guest'
    : process.getuid?.() !== 0
      ? 'a TAP device and a network namespace need root'
      : false;
/** Where the guest is, by family. */
const GUEST = { IPv4: '10.0.2.15', IPv6: 'fd00::f' } as const;
const FAMILIES = ['IPv4', 'IPv6'] as const;
test(
  'connections of either family outlive the primary on -netdev tap',
  { skip, timeout: 300_000 },
  async (t) => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-tap-'));
    const machines: Machine[] = [];
    const sessions: Session[] = [];
    let calls: Calls | null = null;
    try {
      await addNamespace();

      const raw = path.join(folder, 'guest.raw');
      await copyFile(image!, raw);
      await writeFile(path.join(folder, 'syslinux.cfg'), bootConfig({ ip6: `${GUEST.IPv6}/64` }));
      const mcopy = await ensureTool('mcopy');
      await run(
        mcopy.path,
        ['-n', '-o', '-i', `${raw}@@1M`, path.join(folder, 'syslinux.cfg'), '::/syslinux.cfg'],
        { env: { ...process.env, ...mcopy.env } },
      );
      const disk = path.join(folder, 'primary.qcow2');
      await run('qemu-img', ['convert', '-O', 'qcow2', raw, disk]);
      const lengthBytes = await imageSize(disk);
      const machine = { memoryMiB: 128, switchPath: '/' };
      const spec = demoSpec(machine);
      const serial = path.join(folder, 'serial');
      const primary = await startMachine('primary', folder, [
        ...firstPrimaryArguments(machine, disk),
        ...['-serial', `unix:${serial},server=on,wait=off`],
      ]);
      machines.push(primary);
      assert.match(primary.stderr(), /rtl8139.*ne2k_pci instead/);

      await t.test('the guest is reached over both families', async () => {
        for (const family of FAMILIES) {
          const session = await firstSession(GUEST[family]);
          sessions.push(session);
          assert.match(await session.ask(), /^session \S+ 2$/, family);
        }
      });

      calls = new Calls();
      const console = net.connect(serial);
      console.on('error', () => undefined).resume();
      console.write(`\n${CALLING}\n`);
      await calls.next();

      const at = await pairLinks(HOSTS[0]);
      const disks = await createSecondaryDisks(path.join(folder, 'secondary'), lengthBytes);
      await addPrimaryChardevs(primary.qmp, spec, at);
      const secondary = await startMachine('secondary', folder, secondaryArguments(machine, disks, at));
      machines.push(secondary);
      await exportSecondaryDisks(secondary.qmp, spec, at);
      await startResync(primary.qmp, spec, at);
      await awaitResync(primary.qmp, spec);
      const running = secondary.qmp.waitFor('RESUME', () => true, STEP_MS);
      await resumeReplication(primary.qmp, { ...spec, checkpoint: { maxDelayMs: 20_000 } }, at);
      await running;

      const checkpoints = async (): Promise<number> =>
        ((await primary.qmp.execute('query-colo-checkpoints')) as { count: number }).count;
      let calling = '';

      await t.test('new connections since the last checkpoint, from either side', async () => {
        // A checkpoint would give the secondary the primary's numbers: begin again until there is none in between.
        for (let count = -1; count !== (await checkpoints());) {
          for (const session of sessions.splice(FAMILIES.length)) session.close();
          await primary.qmp.execute('x-colo-checkpoint');
          await calls!.ask();
          count = await checkpoints();
          calling = await calls!.next();
          assert.equal(await calls!.ask(), calling);
          for (const family of FAMILIES) {
            const session = new Session(GUEST[family]);
            sessions.push(session);
            assert.match(await session.ask(), /^session \S+ 1$/);
          }
          for (const session of sessions) await session.ask();
          t.diagnostic(`checkpoints: ${count}, then ${await checkpoints()}`);
        }
      });

      await t.test('the primary is killed, and every connection goes on', async () => {
        const before: string[] = [];
        for (const session of sessions) before.push(await session.ask());
        primary.child.kill('SIGKILL');
        await once(primary.child, 'exit');
        const killed = performance.now();
        await failoverSecondary(secondary.qmp, spec);
        t.diagnostic(`took over after ${Math.round(performance.now() - killed)} ms`);
        const after = await Promise.all(
          sessions.map(async (session) => {
            const answer = await session.ask();
            t.diagnostic(`${answer} after ${Math.round(performance.now() - killed)} ms`);
            return answer;
          }),
        );
        assert.deepEqual(
          after,
          before.map((answer) => answer.replace(/\d+$/, (count) => String(Number(count) + 1))),
        );
        assert.equal(await calls!.ask(), calling, 'the connection that the guest has opened');
      });
    } finally {
      for (const session of sessions) session.close();
      calls?.close();
      for (const { child } of machines) child.kill('SIGKILL');
      await removeNamespace().catch(() => undefined);
      await rm(folder, { recursive: true, force: true });
    }
  },
);
