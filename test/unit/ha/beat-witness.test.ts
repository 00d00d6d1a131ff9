/** What is gathered before a diagnosis: others, the arbiter, a connection, and one's own standing still. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PeerState, PeerStatus } from '../../../src/ha/beat/peers.ts';
import type { Probe } from '../../../src/ha/beat/prober.ts';
import { Witness } from '../../../src/ha/beat/witness.ts';

function rig() {
  const world = {
    ms: 0,
    status: { b: 'silent', c: 'ok' } as Record<string, PeerStatus>,
    others: { hears: [] as string[], misses: [] as string[] },
    arbiter: 'unknown' as 'yes' | 'no' | 'unknown',
    probe: 'timeout' as Probe,
    probed: [] as string[],
  };
  const peer = (host: string): PeerState => ({
    host,
    status: world.status[host] ?? 'none',
    isConnected: world.status[host] === 'ok',
    lastHeardMs: 0,
    instance: null,
    isOrderly: false,
    vms: new Map(),
  });
  const witness = new Witness({
    heartbeats: { peer, hosts: () => Object.keys(world.status), whoHears: () => world.others },
    apiOf: (host) => (host === 'b' ? { address: '192.0.2.2', port: 7700 } : null),
    reachesArbiter: () => world.arbiter,
    patienceMs: 400,
    now: () => world.ms,
    probe: (address, port) => {
      world.probed.push(`${address}:${port}`);
      return Promise.resolve(world.probe);
    },
  });
  return { world, witness };
}
const SILENT = { host: 'b', vm: 'shop', checkpoint: 'silent', silentMs: 400 } as const;

test('a look does not wait; a second one tries a connection and knows more', async () => {
  const { world, witness } = rig();
  assert.equal(witness.look(SILENT).kind, 'network-cut');
  assert.deepEqual(world.probed, []);
  world.probe = 'yes';
  assert.equal((await witness.lookAgain(SILENT)).kind, 'host-frozen');
  assert.deepEqual(world.probed, ['192.0.2.2:7700']);
  world.status['c'] = 'silent';
  assert.equal((await witness.lookAgain({ ...SILENT, host: 'c' })).kind, 'i-am-cut-off');
});

test('what others miss is dead; with nobody else in reach it is me', () => {
  const { world, witness } = rig();
  world.others.misses.push('c');
  assert.equal(witness.look(SILENT).kind, 'host-dead');
  world.others.misses.length = 0;
  world.status['c'] = 'silent';
  assert.equal(witness.look(SILENT).kind, 'i-am-cut-off');
  world.arbiter = 'yes';
  assert.equal(witness.look(SILENT).kind, 'network-cut');
  world.arbiter = 'no';
  assert.equal(witness.look(SILENT).kind, 'i-am-cut-off');
});

test('two hosts alone cannot tell who is cut off', () => {
  const { world, witness } = rig();
  delete world.status['c'];
  assert.equal(witness.look(SILENT).kind, 'network-cut');
});

test('who stood still blames nobody for one patience', () => {
  const { world, witness } = rig();
  world.ms = 5000;
  witness.stoodStill();
  assert.equal(witness.look(SILENT).kind, 'i-stood-still');
  world.ms += 399;
  assert.equal(witness.look(SILENT).isLoss, false);
  world.ms += 1;
  assert.equal(witness.look(SILENT).kind, 'network-cut');
});
