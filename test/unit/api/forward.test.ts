/** Calls for VMs that live elsewhere are sent on, once, over the real API. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { NodeUnreachableError } from '../../../src/api/errors.ts';
import { forwarding } from '../../../src/api/forward.ts';
import { NodeClient } from '../../../src/api/http-client.ts';
import { ApiServer } from '../../../src/api/http-server.ts';
import { NoSuchVmError } from '../../../src/ha/errors.ts';
import { falseNode, SPEC, VM } from '../../helpers/false-node.ts';

test('a call goes where the VM is, with its answer, errors, streams and console', async (t) => {
  const here = falseNode();
  const there = falseNode({
    checkpoint: (name) => Promise.reject(new NoSuchVmError(name)),
    console: () => Promise.resolve(new PassThrough()),
    logs: async function* () {
      await Promise.resolve();
      yield 'from there';
    },
  });
  // The other host would send it on again, and does not because it was sent on.
  const server = await ApiServer.listen(
    { host: '127.0.0.1', port: 0 },
    { node: falseNode({ vm: () => Promise.reject(new Error('sent on twice')) }), forwarded: there },
  );
  t.after(() => server.close());
  const node = forwarding({
    local: here,
    locate: (vm) => Promise.resolve(vm === 'web1' ? server.address : null),
    locateHost: (host) => Promise.resolve(host === 'beta' ? server.address : null),
    clientAt: (address) => new NodeClient(address, { isForwarded: true }),
  });
  assert.deepEqual(await node.vm('web1'), VM);
  assert.deepEqual(await node.vm('other'), VM);
  await node.failover('web1');
  await node.migrate('web1', 'gamma');
  await node.up(SPEC);
  await node.setMaintenance('beta', true, { drain: false });
  await node.setMaintenance('alpha', true, { drain: true });
  await assert.rejects(node.checkpoint('web1'), (error) => error instanceof NoSuchVmError);
  const lines: string[] = [];
  for await (const line of node.logs('web1', { lines: 5, follow: false })) lines.push(line);
  for await (const line of node.logs('other', { lines: 5, follow: false })) lines.push(line);
  assert.deepEqual(lines, ['from there', 'one', 'two']);
  const console = await node.console('web1');
  console.write('hello');
  assert.equal(String((await once(console, 'data'))[0]), 'hello');
  console.destroy();
  assert.deepEqual(
    there.asked.map(([call]) => call),
    ['vm', 'failover', 'migrate', 'setMaintenance'],
  );
  assert.deepEqual(here.asked, [
    ['vm', 'other'],
    ['up', SPEC],
    ['setMaintenance', 'alpha', true, { drain: true }],
  ]);
});

test('a host that does not answer is named, with what to do', async (t) => {
  const server = await ApiServer.listen({ host: '127.0.0.1', port: 0 }, { node: falseNode() });
  await server.close();
  const node = forwarding({
    local: falseNode(),
    locate: () => Promise.resolve(server.address),
    clientAt: (address) => new NodeClient(address, { isForwarded: true, isPatient: false }),
  });
  t.diagnostic(server.address);
  await assert.rejects(node.failover('web1'), (error) => {
    assert.ok(error instanceof NodeUnreachableError);
    assert.match(error.message, /^VM 'web1' is looked after at 127\.0\.0\.1:\d+, and no node answers there/);
    return true;
  });
  await assert.rejects(async () => {
    for await (const line of node.logs('web1', { lines: 1, follow: false })) assert.fail(line);
  }, /no node answers there/);
});
