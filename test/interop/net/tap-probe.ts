/**
 * Runs inside a network namespace of its own (tap.test.ts): opens a TAP, gives the kernel's side an address, and asks
 * it by ARP who has that address. Prints one JSON line.
 */
import { execFileSync } from 'node:child_process';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { openTapBackend } from '../../../src/net/netdevs/tap.ts';

const ip = (...args: string[]): void => void execFileSync('ip', args);

const netdev = new Netdev({ id: 'hn0' });
const answered = new Deferred<Uint8Array>();
netdev.guest = (frame) => {
  const isArpReply = frame[12] === 8 && frame[13] === 6 && frame[21] === 2;
  if (isArpReply) answered.resolve(new Uint8Array(frame));
};
ip('link', 'add', 'br7', 'type', 'bridge');
const backend = await openTapBackend(netdev, {
  type: 'tap',
  id: 'hn0',
  ifname: 'colotap0',
  helper: '/usr/lib/qemu/qemu-bridge-helper',
  br: 'br7',
});
ip('addr', 'add', '10.9.9.1/24', 'dev', 'br7');
ip('link', 'set', 'br7', 'up');

const mac = [2, 0, 0, 0, 0, 7];
const ask = Uint8Array.from([
  ...[255, 255, 255, 255, 255, 255, ...mac, 8, 6],
  ...[0, 1, 8, 0, 6, 4, 0, 1, ...mac, 10, 9, 9, 2, 0, 0, 0, 0, 0, 0, 10, 9, 9, 1],
  ...new Uint8Array(18),
]);
// The bridge port forwards once the kernel has brought it up; until then questions are lost.
const timer = setInterval(() => netdev.sendFromGuest(ask), 50);
try {
  const reply = await withDeadline(answered.promise, 10_000, 'ARP reply');
  console.log(JSON.stringify({ device: backend.device.name, sender: [...reply.subarray(28, 32)] }));
} finally {
  clearInterval(timer);
  await backend.close();
}
