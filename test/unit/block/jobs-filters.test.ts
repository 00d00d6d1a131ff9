/** The fault-injecting filters: what they let through, what they stop, and their options. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { IoError } from '../../../src/base/errors.ts';
import { GateFilter, openDelayFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter, openErrorFilter } from '../../../src/block/filters/error.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { OptionReader, nestOptions } from '../../../src/block/options.ts';
import type { OpenContext } from '../../../src/block/registry.ts';
import { CLUSTER, bytesOf, filled, isPending, memory } from './jobs-helpers.ts';

const LENGTH = 2 * CLUSTER;

const context: OpenContext = {
  nodeName: 'filter',
  openChild: () => Promise.resolve(memory('disk', LENGTH)),
  find: () => null,
  findLater: () => () => null,
  emit: () => undefined,
};
const options = (flat: Record<string, string>): OptionReader => new OptionReader(nestOptions(flat));

describe('error filter', () => {
  it('fails the Nth request, in a range, so many times', async () => {
    const box: { faults: ErrorFilter | null } = { faults: null };
    const node = memory('disk', LENGTH, { wrap: (driver) => (box.faults = new ErrorFilter(driver)) });
    box.faults?.add({ op: 'write', errno: 'ENOSPC', skip: 1, times: 1 });
    await node.write(0, filled(512, 1));
    await assert.rejects(node.write(0, filled(512, 2)), { errno: 'ENOSPC' });
    await node.write(0, filled(512, 3));
    box.faults?.clear();
    box.faults?.add({ op: 'read', offset: 1024, length: 512 });
    await bytesOf(node, 0, 1024);
    await bytesOf(node, 1536, 512);
    await assert.rejects(bytesOf(node, 1000, 100), IoError);
    assert.equal(box.faults?.failed, 2);
  });

  it('opens over a child and refuses what it does not know', async () => {
    const flat = { 'file.driver': 'memory', op: 'flush', errno: 'EIO', times: '1' };
    const node = new BlockNode('filter', await openErrorFilter(options(flat), context));
    assert.deepEqual([...node.driver.children().keys()], ['file']);
    await assert.rejects(node.flush(), { errno: 'EIO' });
    await node.flush();
    await node.write(5, filled(10, 1));
    assert.deepEqual(await bytesOf(node, 5, 10), Buffer.alloc(10, 1));
    await assert.rejects(
      openErrorFilter(options({ ...flat, errno: 'EX' }), context),
      /'errno' expects one of: EPERM/,
    );
    await assert.rejects(
      openErrorFilter(options({ ...flat, op: 'x' }), context),
      /'op' expects one of: read/,
    );
  });
});

describe('delay and gate filters', () => {
  it('the gate holds the kinds it is told to', async () => {
    const box: { gate: GateFilter | null } = { gate: null };
    const node = memory('disk', LENGTH, { wrap: (driver) => (box.gate = new GateFilter(driver, ['write'])) });
    box.gate?.gate.close();
    const write = node.writeZeroes(0, 512);
    assert.equal(await isPending(write), true);
    assert.equal(box.gate?.waiting, 1);
    await bytesOf(node, 0, 512);
    box.gate.gate.open();
    await write;
    assert.equal(box.gate.waiting, 0);
  });

  it('the delay opens over a child', async () => {
    const flat = { 'file.driver': 'memory', 'write-ms': '1' };
    const node = new BlockNode('filter', await openDelayFilter(options(flat), context));
    await node.write(0, filled(10, 1));
    await node.discard(0, 10);
    assert.equal((await node.blockStatus(0, LENGTH)).length, 2);
    await assert.rejects(
      openDelayFilter(options({ 'write-ms': '1' }), context),
      /must be specified for "file"/,
    );
    await node.close();
  });
});
