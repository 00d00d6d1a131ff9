/** The fault injection of tests, by object. By options it is blkdebug.test.ts's. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { IoError } from '../../../src/base/errors.ts';
import { GateFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { CLUSTER, bytesOf, filled, isPending, memory } from './jobs-helpers.ts';

const LENGTH = 2 * CLUSTER;

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
});

describe('gate filter', () => {
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
});
