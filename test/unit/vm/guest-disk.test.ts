/** A guest's disk: what it counts, and what it tells a manager of errors (QEMU's BLOCK_IO_ERROR). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gate } from '../../../src/base/async.ts';
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { BlockDescriber } from '../../../src/monitor/commands/block-info.ts';
import { GuestDisk } from '../../../src/vm/disks.ts';

const NO_TIMES = new Set(['rd_total_time_ns', 'wr_total_time_ns', 'flush_total_time_ns', 'idle_time_ns']);

test('requests, failures and the furthest write are counted; errors are told', async () => {
  const filter = new ErrorFilter(new MemoryDriver(1 << 20), [
    { op: 'write', errno: 'ENOSPC', offset: 8192, length: 1 },
    { op: 'read', offset: 8192, length: 1 },
  ]);
  const root = new BlockNode('node0', filter);
  const events: [string, Record<string, unknown>][] = [];
  const disk = new GuestDisk(
    { id: 'disk', root, gate: new Gate() },
    (event, data) => events.push([event, data]),
    'dev0',
  );
  const describer = new BlockDescriber();
  const stats = (): Record<string, unknown> => {
    const reply = describer.deviceStats(disk.backend, disk);
    assert.deepEqual([reply['device'], reply['node-name'], reply['qdev']], ['disk', 'node0', 'dev0']);
    return reply['stats'] as Record<string, unknown>;
  };
  assert.equal(stats()['idle_time_ns'], undefined);

  await disk.write(0, new Uint8Array(4096));
  await disk.write(65536, new Uint8Array(512));
  await disk.read(0, new Uint8Array(1024));
  await disk.flush();
  await assert.rejects(disk.write(8192, new Uint8Array(512)));
  await assert.rejects(disk.read(8192, new Uint8Array(512)));
  const common = { device: 'disk', 'node-name': 'node0', action: 'report' };
  assert.deepEqual(events, [
    ['BLOCK_IO_ERROR', { ...common, operation: 'write', nospace: true, reason: 'No space left on device' }],
    ['BLOCK_IO_ERROR', { ...common, operation: 'read', nospace: false, reason: 'Input/output error' }],
  ]);

  const told = stats();
  for (const name of NO_TIMES) {
    assert.ok(Number.isInteger(told[name]) && Number(told[name]) >= 0, `${name}: ${String(told[name])}`);
  }
  assert.deepEqual(Object.fromEntries(Object.entries(told).filter(([name]) => !NO_TIMES.has(name))), {
    ...{ rd_bytes: 1024, rd_operations: 1, rd_merged: 0, failed_rd_operations: 1, invalid_rd_operations: 0 },
    ...{ wr_bytes: 4608, wr_operations: 2, wr_merged: 0, failed_wr_operations: 1, invalid_wr_operations: 0 },
    ...{ flush_operations: 1, failed_flush_operations: 0, invalid_flush_operations: 0 },
    ...{ unmap_bytes: 0, unmap_operations: 0, unmap_merged: 0, unmap_total_time_ns: 0 },
    ...{ failed_unmap_operations: 0, invalid_unmap_operations: 0 },
    ...{ wr_highest_offset: 66048, account_invalid: true, account_failed: true, timed_stats: [] },
  });
  const info = await describer.device(disk.backend, disk);
  assert.deepEqual(
    [info['io-status'], info['removable'], info['qdev'], info['locked'], info['type']],
    ['ok', false, 'dev0', false, 'unknown'],
  );
});

test('zeroes count as writes, discards by themselves; an engine that tells of errors is left to do so', async () => {
  const filter = new ErrorFilter(new MemoryDriver(1 << 20), [{ op: 'discard' }]);
  const events: string[] = [];
  const backend = { id: 'disk', root: new BlockNode('node0', filter), gate: new Gate() };
  const disk = new GuestDisk(backend, (event) => events.push(event));
  await disk.write(0, new Uint8Array(4096).fill(1));
  await disk.writeZeroes(0, 2048, true);
  const content = new Uint8Array(4096);
  await disk.read(0, content);
  assert.deepEqual([content[0], content[2047], content[2048]], [0, 0, 1]);
  await assert.rejects(disk.discard(0, 4096));
  const told = disk.stats.report();
  assert.deepEqual([told['wr_bytes'], told['wr_operations']], [6144, 2]);
  assert.deepEqual([told['unmap_operations'], told['failed_unmap_operations']], [0, 1]);
  assert.deepEqual(events, ['BLOCK_IO_ERROR']);
  await assert.rejects(new GuestDisk(backend, null).discard(0, 4096));
  assert.equal(events.length, 1);
});
