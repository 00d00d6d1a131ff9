/**
 * The simulation of bench/cluster.ts in small: twenty hosts and a hundred VMs on a real etcd lose a rack. What a daemon asks
 * of etcd must not grow with the cluster; bench/cluster.ts shows it for a thousand hosts.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { simulate } from '../../../bench/cluster/simulate.ts';
import { noEtcd } from '../../helpers/etcd.ts';

test(
  'a rack is lost: every VM is heard again and protected again, and watches stay few',
  { skip: noEtcd },
  async () => {
    const report = await simulate({
      hosts: 20,
      vms: 100,
      rackSize: 2,
      workers: 1,
      members: 1,
      steadySeconds: 0,
      vmMemoryMiB: 1024,
      hostMemoryMiB: 15_360,
      resyncMs: [50, 200],
      detectMs: [50, 100],
      deadlineMs: 60_000,
      attemptMs: 20_000,
    });
    assert.ok(report.isAllProtected);
    assert.ok(report.lostPrimaries + report.lostSecondaries > 0);
    assert.equal(report.neverHeard, 0);
    assert.equal(report.neverProtected, 0);
    assert.deepEqual(report.troubles, []);
    // One watch a host, and of each VM that comes up a few events, whatever the number of hosts.
    assert.equal(report.watchers, 18);
    assert.ok(report.up.etcdEvents * report.up.seconds <= 6 * 100);
  },
);
