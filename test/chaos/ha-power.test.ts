/**
 * The power fails for one host after the other, on real guests: the primary, then who went on for it; and for both at once,
 * one of which stays away. Only who has everything that was acknowledged starts, alone; what is stale waits to be resynced.
 * A power cut is imitated by killing every process, and emptying the run folder. For all hosts at once: test/e2e/ha-ops.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LoopbackHost } from '../../bench/loopback-host.ts';
import type { VmView } from '../../src/ha/views.ts';
import { until } from '../helpers/colo.ts';
import { Operator, STEP_MS } from '../e2e/ha-operator.ts';
import { skipWithoutGuest } from '../e2e/pair-rig.ts';

const VM = 'web';

test(
  'after power cuts the newest side starts alone, and no acknowledged line is lost',
  { skip: skipWithoutGuest, timeout: 1_800_000 },
  async (t) => {
    const operator = await Operator.start(t);
    const file = await operator.write('web.yaml', [
      `name: ${VM}`,
      `image: ${process.env['COLO_GUEST_IMAGE']!}`,
      'memory: 128M',
      'hosts: [a, b, c]',
      `network: { switch: "unix:${operator.folder}/switch.sock" }`,
      'heartbeat: { patience: 3s, link-patience: 10s }',
    ]);
    await operator.colo('a', 'up', file);
    const workload = await operator.connect();
    t.after(() => workload.stop().catch(() => undefined));

    const isAlone = ({ state, epoch, primary }: VmView, after: number): boolean =>
      epoch > after && primary !== null && !['starting', 'dissolving'].includes(state);
    const nothingIsLost = async (acknowledged: ReadonlyMap<number, string>): Promise<void> => {
      assert.ok(acknowledged.size > 0);
      await until('every line is there', STEP_MS * 2, async () => {
        const missing = await operator.missingLines(acknowledged).catch(() => null);
        if (missing) assert.deepEqual(missing, []);
        return missing !== null;
      });
    };
    const starts = async (host: LoopbackHost, after: number): Promise<unknown[]> =>
      (await operator.events(host.name, after)).filter(({ vm, to }) => vm === VM && to === 'starting');

    await t.test('the primary, then who went on for it', async () => {
      const before = await operator.untilProtected('a', VM);
      const [primary, survivor] = [operator.host(before.primary), operator.host(before.secondary)];
      // There is to be no third copy.
      const third = operator.other(before.primary, before.secondary);
      await operator.colo(third.name, 'drain', third.name);
      const told = await operator.lastEvent(primary.name);

      await cutPower(primary);
      const alone = await operator.untilStatus(third.name, VM, 'alone', (view) =>
        isAlone(view, before.epoch),
      );
      assert.equal(alone.primary, survivor.name);
      await workload.firstReplyAfter(performance.now());
      const acknowledged = await afterCut(survivor, workload);

      await primary.start();
      // Alone: nothing but the arbiter's record keeps it from starting.
      await operator.untilEvent(
        primary.name,
        told,
        'its disk is stale',
        ({ vm, to, reason }) => vm === VM && to === 'blocked' && reason.includes('stale'),
      );
      assert.equal(await primary.vmPid(VM), null);

      await survivor.start();
      const again = await operator.untilStatus(third.name, VM, 'up', (view) => isAlone(view, alone.epoch));
      assert.equal(again.primary, survivor.name);
      assert.deepEqual(await starts(primary, told), []);
      await nothingIsLost(acknowledged);
      const whole = await operator.untilProtected(third.name, VM, again.epoch);
      assert.deepEqual([whole.primary, whole.secondary], [survivor.name, primary.name]);
      await nothingIsLost(acknowledged);
      await operator.colo(third.name, 'undrain', third.name);
    });

    for (const returns of ['secondary', 'primary'] as const) {
      await t.test(`both at once, and only that of the ${returns} comes back`, async () => {
        const before = await operator.untilProtected('a', VM);
        const [one, other] = [
          operator.host(before[returns]),
          operator.host(before[returns === 'primary' ? 'secondary' : 'primary']),
        ];
        const third = operator.other(one.name, other.name);
        await workload.firstReplyAfter(performance.now());
        const told = await operator.lastEvent(other.name);
        await cutPower(one, other);
        const acknowledged = new Map(workload.acknowledged);
        await one.start();
        const alone = await operator.untilStatus(third.name, VM, 'up', (view) => isAlone(view, before.epoch));
        assert.equal(alone.primary, one.name);
        await nothingIsLost(acknowledged);
        await operator.untilProtected(third.name, VM, alone.epoch);
        await other.start();
        await workload.firstReplyAfter(performance.now());
        assert.deepEqual(await starts(other, told), []);
        await operator.untilAllAlive(third.name);
      });
    }
  },
);

/** Everything of them at once: no kernel is left to end what one of them has open. */
async function cutPower(...hosts: readonly LoopbackHost[]): Promise<void> {
  const guests = (await Promise.all(hosts.map((host) => host.vmPids()))).flat();
  for (const pid of [...hosts.map(({ daemonPid }) => daemonPid), ...guests]) process.kill(pid, 'SIGKILL');
  for (const host of hosts) {
    await host.end('SIGKILL');
    await host.clearRunFolder();
  }
}

/** What was acknowledged by the time of the cut. */
async function afterCut(
  host: LoopbackHost,
  { acknowledged }: { readonly acknowledged: ReadonlyMap<number, string> },
): Promise<ReadonlyMap<number, string>> {
  await cutPower(host);
  return new Map(acknowledged);
}
