/**
 * One boot of a protected VM in a lab, one failure after the other. After each: an existing connection answers, somebody
 * went on alone if somebody had to, protection is back. In the end: one speaker at every moment, by the arbiter's turns;
 * no acknowledged line of the ledger lost, no connection lost.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertOneSpeaker } from '../helpers/edge.ts';
import { skipWithoutLab } from '../helpers/netns-machine.ts';
import type { Fault } from './ha-faults.ts';
import { Cluster, type ClusterOptions } from './ha-lab.ts';
import { skipWithoutGuest } from './pair-rig.ts';

/** Part of a failure's name: that one alone is tried. */
const ONLY = process.env['COLO_FAULT'] ?? '';

export function survive(
  name: string,
  faults: readonly Fault[],
  options: Omit<ClusterOptions, 'hosts'> = {},
  skip: string | false = false,
): void {
  test(
    name,
    { skip: skipWithoutGuest || skipWithoutLab() || skip, timeout: 900_000 + faults.length * 180_000 },
    async (t) => {
      const cluster = await Cluster.start(t, { hosts: ['a', 'b', 'c'], ...options });
      // A busy machine needs its time between the cut and its end.
      await cluster.up(process.env['COLO_GUEST_IMAGE']!, ['heartbeat: { link-patience: 10s }']);
      for (const fault of faults.filter(({ name }) => name.includes(ONLY))) {
        await t.test(fault.name, async () => {
          const before = await cluster.untilProtected();
          const [primary, secondary] = [cluster.host(before.primary!), cluster.host(before.secondary!)];
          const undo = await fault.make(cluster, primary, secondary);
          await cluster.reply();
          if (fault.isLoss) {
            await cluster.untilView('somebody goes on', ({ epoch }) => epoch > before.epoch);
          }
          await undo();
          const after = await cluster.untilProtected(fault.isLoss ? before.epoch : before.epoch - 1);
          if (fault.isLoss === false) assert.equal(after.epoch, before.epoch, 'nobody had to go on alone');
          await cluster.reply();
          assert.deepEqual(cluster.troubles.splice(0), []);
        });
      }
      const { report, verdict } = await cluster.end();
      assertOneSpeaker(verdict);
      assert.equal(report.connectionsLost, 0);
      assert.equal(report.ledgerLinesLost, 0);
      assert.ok(report.ledgerLines > 0);
    },
  );
}
