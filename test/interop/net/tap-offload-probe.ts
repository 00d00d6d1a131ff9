/**
 * Runs inside a network namespace of its own (tap.test.ts), with the name of another: a TAP in each, both kernels' TCP
 * between them, and in the middle netdevs as a virtio NIC has them. The first TAP has vnet headers, the second has them or
 * not. Sends bytes from here to there; prints what arrived and how large the packets in the middle were.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { createHash } from 'node:crypto';
import { Netdev } from '../../../src/net/netdev.ts';
import { openTapBackend } from '../../../src/net/netdevs/tap.ts';
import { VNET_HEADER_BYTES } from '../../../src/net/offload.ts';

const [other = '', hasHeader = 'on'] = process.argv.slice(2);
const ip = (...args: string[]): void => void execFileSync('ip', args);
const there = (...args: string[]): void => ip('netns', 'exec', other, ...args);
const open = async (ifname: string, vnetHdr: string) => {
  const netdev = new Netdev({ id: ifname, vnetHeaderBytes: VNET_HEADER_BYTES });
  return {
    netdev,
    tap: await openTapBackend(netdev, { type: 'tap', id: ifname, ifname, vnet_hdr: vnetHdr }),
  };
};
const a = await open('coloa', 'on');
const b = await open('colob', hasHeader);
let largest = 0;
a.netdev.guest = (packet) => {
  largest = Math.max(largest, packet.length);
  b.netdev.sendFromGuest(Uint8Array.from(packet));
};
b.netdev.guest = (packet) => a.netdev.sendFromGuest(Uint8Array.from(packet));
ip('link', 'set', 'colob', 'netns', other);
there('ip', 'addr', 'add', '10.9.9.2/24', 'dev', 'colob');
there('ip', 'link', 'set', 'colob', 'up');
ip('addr', 'add', '10.9.9.1/24', 'dev', 'coloa');
ip('link', 'set', 'coloa', 'up');

const bytes = Buffer.from(Array.from({ length: 1_000_000 }, (_, at) => (at * at) & 255));
const server = `const h = require('node:crypto').createHash('sha256');
require('node:net').createServer((s) => s.on('data', (d) => h.update(d)).on('end', () => s.end(h.digest('hex'))))
  .listen(7000, '10.9.9.2', () => console.log('ready'));`;
const child = spawn('ip', ['netns', 'exec', other, process.execPath, '-e', server], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
try {
  await once(child.stdout, 'data');
  let answer = '';
  // The links come up in their own time; until then what is asked is lost, and asked again by TCP.
  const socket = net.connect(7000, '10.9.9.2');
  socket.setEncoding('latin1').on('data', (text: string) => (answer += text));
  socket.end(bytes);
  await Promise.race([once(socket, 'end'), setTimeout(20_000, null, { ref: false })]);
  const isWhole = answer === createHash('sha256').update(bytes).digest('hex');
  console.log(JSON.stringify({ isWhole, isLarge: largest > 4 * 1514 }));
} finally {
  child.kill('SIGKILL');
  await a.tap.close();
  await b.tap.close();
}
