/** What filter-dump writes, read by tshark. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { DumpFilter } from '../../../src/net/filters/dump.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { testFolder } from '../../helpers/bare-process.ts';
import { tcp, udp } from '../../unit/net/frames.ts';

const skip = spawnSync('tshark', ['--version']).status === 0 ? false : 'tshark is not installed';
const FIELDS = ['frame.len', 'frame.cap_len', 'eth.src', 'ip.id', 'udp.length', 'tcp.seq_raw'];

/** A line of fields for each packet, and its time in ms. */
function read(file: string): { lines: string[]; times: number[] } {
  const fields = ['frame.time_epoch', ...FIELDS].flatMap((field) => ['-e', field]);
  const text = execFileSync('tshark', ['-r', file, '-T', 'fields', '-E', 'separator=,', ...fields], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const rows = text.trim().split('\n');
  return {
    lines: rows.map((row) => row.slice(row.indexOf(',') + 1)),
    times: rows.map((row) => Number(row.split(',')[0]) * 1000),
  };
}

for (const vnetHeaderBytes of [0, 12]) {
  test(`tshark reads a capture of packets behind ${vnetHeaderBytes} bytes`, { skip }, async (t) => {
    const file = path.join(await testFolder(t), 'x.pcap');
    const netdev = new Netdev({ id: 'hn0', vnetHeaderBytes });
    netdev.guest = netdev.wire = () => undefined;
    netdev.hasVnetWire = vnetHeaderBytes > 0;
    const dump = new DumpFilter('d', { queue: 'all', enabled: true, file, maxBytes: 100 });
    netdev.insert(dump);
    const behind = (frame: Uint8Array): Uint8Array => Buffer.concat([Buffer.alloc(vnetHeaderBytes), frame]);
    const began = performance.timeOrigin + performance.now();
    netdev.receiveFromWire(behind(udp('in', { id: 1 })));
    netdev.sendFromGuest(behind(tcp({ id: 2, seq: 77, ack: 1, payload: new Uint8Array(1400) })));
    netdev.sendFromGuest(behind(tcp({ id: 3, seq: 78, ack: 1, payload: new Uint8Array(60_000) })));
    // Turned off it sees nothing; the queue's other side it does not see either.
    dump.enabled = false;
    netdev.sendFromGuest(behind(udp('unseen')));
    dump.enabled = true;
    dump.queue = 'tx';
    netdev.sendFromGuest(behind(udp('unseen')));
    netdev.receiveFromWire(behind(udp('in', { id: 4 })));
    const ended = performance.timeOrigin + performance.now();
    dump.close();
    await dump.finished;
    assert.equal(dump.lost, 0);
    const { lines, times } = read(file);
    assert.deepEqual(lines, [
      '44,44,52:54:00:00:00:01,0x0001,10,',
      '1454,100,52:54:00:00:00:01,0x0002,,77',
      '60054,100,52:54:00:00:00:01,0x0003,,78',
      '44,44,52:54:00:00:00:01,0x0004,10,',
    ]);
    // To the microsecond, rounded down.
    for (const time of times) assert.ok(time >= began - 0.002 && time <= ended, `${began} ${time} ${ended}`);
  });
}

test('a capture that the disk does not keep up with loses packets, and is whole', { skip }, async (t) => {
  const file = path.join(await testFolder(t), 'x.pcap');
  const dump = new DumpFilter('d', { queue: 'all', enabled: true, file, maxBytes: 65_536 });
  const frame = tcp({ seq: 1, ack: 1, payload: new Uint8Array(60_000) });
  // Nothing is written within one turn of the event loop; 8 MiB is kept.
  for (let count = 0; count < 200; count++) dump.receive(frame);
  dump.close();
  await dump.finished;
  const kept = Math.floor((8 << 20) / (16 + frame.length));
  assert.equal(dump.lost, 200 - kept);
  assert.equal(read(file).lines.length, kept);
});
