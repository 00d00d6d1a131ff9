/**
 * Runs inside a network namespace of its own (tap.test.ts): the same TAP on a hub in our program and then in QEMU, with a
 * vnet header on the device. Asks the kernel's side by ARP, through the hub; what mirrors with the vnet word see goes
 * to standard output, a JSON line for each program.
 */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { CAPABILITIES, startBare } from '../../helpers/bare-process.ts';
import { FrameSocket } from './qemu.ts';

const [folder, ...programs] = process.argv.slice(2);
const ip = (...args: string[]): void => void execFileSync('ip', args);
const cleanUp: (() => unknown)[] = [];
const mac = [2, 0, 0, 0, 0, 7];
const ask = Uint8Array.from([
  ...[255, 255, 255, 255, 255, 255, ...mac, 8, 6],
  ...[0, 1, 8, 0, 6, 4, 0, 1, ...mac, 10, 9, 9, 2, 0, 0, 0, 0, 0, 0, 10, 9, 9, 1],
  ...new Uint8Array(18),
]);
const isReply = (frame: Uint8Array): boolean => frame[12] === 8 && frame[13] === 6 && frame[21] === 2;
const isQuestion = (frame: Uint8Array): boolean => Buffer.compare(frame, ask) === 0;

const socket = (id: string): string => `-chardev socket,id=${id},path=DIR/${id},server=on,wait=off`;
const LINE = [
  '-netdev tap,id=tap,ifname=coloprobe0,script=no,downscript=no,vhost=off,vnet_hdr=on',
  '-netdev hubport,id=h0,hubid=0,netdev=tap',
  '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest',
  '-netdev hubport,id=h1,hubid=0,netdev=guest',
  ...['up', 'down'].map(socket),
  '-object filter-mirror,id=m0,netdev=tap,queue=tx,outdev=up,vnet_hdr_support=on',
  '-object filter-mirror,id=m1,netdev=tap,queue=rx,outdev=down,vnet_hdr_support=on',
].join(' ');

try {
  for (const program of programs) {
    if (program !== 'colo' && program !== 'qemu') throw new Error(program);
    const t = { after: (done: () => unknown) => cleanUp.push(done) };
    const bare = await startBare(t, program, path.join(folder!, program), LINE, async () => {});
    await bare.type(CAPABILITIES);
    ip('addr', 'add', '10.9.9.1/24', 'dev', 'coloprobe0');
    ip('link', 'set', 'coloprobe0', 'up');
    const guest = await FrameSocket.connect(path.join(bare.home, 'guest'));
    const up = await FrameSocket.connect(path.join(bare.home, 'up'), true);
    const down = await FrameSocket.connect(path.join(bare.home, 'down'), true);
    const timer = setInterval(() => guest.send(ask), 50);
    await guest.until((frames) => frames.some(isReply), 'an answer');
    await up.until((frames) => frames.some(isReply), 'its copy');
    await down.until((frames) => frames.some(isQuestion), "the question's");
    clearInterval(timer);
    const seen = (peer: FrameSocket, is: (frame: Uint8Array) => boolean): object => {
      const at = peer.frames.findIndex(is);
      // The kernel chooses the device's address.
      const text = Buffer.from(peer.frames[at]!).toString('hex').slice(24);
      return { word: peer.vnetWords[at], frame: text.replaceAll(/^(....).{16}.*(0a090901)/g, '$1 $2') };
    };
    console.log(
      JSON.stringify({ guest: seen(guest, isReply), up: seen(up, isReply), down: seen(down, isQuestion) }),
    );
    for (const peer of [guest, up, down]) peer.close();
    const gone = new Promise((resolve) => bare.child.once('exit', resolve));
    bare.child.kill('SIGKILL');
    await gone;
  }
} finally {
  for (const done of cleanUp) await done();
}
