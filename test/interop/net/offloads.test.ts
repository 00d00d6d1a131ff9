/**
 * A guest with offloads on stock QEMU (virtio-net on a TAP with vnet headers): what it says reaches our comparer twice,
 * redirected as the primary's and mirrored as the secondary's, and leaves when the two have been found the same. What
 * it hears is mirrored into our chain. Its segments and the host's are up to 64 KiB, with a header that says how to cut
 * them. One boot for all of it, in a network namespace that the test makes.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { CAPABILITIES, startBare, testFolder } from '../../helpers/bare-process.ts';
import { FrameRelay } from '../../helpers/frame-relay.ts';
import type { Noted } from '../../helpers/frame-relay.ts';
import { readCapture } from './capture.ts';
import { FrameSocket, whyNoQemu } from './qemu.ts';
import { whyNoTap } from './why-no-tap.ts';

const run = promisify(execFile);
const image = process.env['COLO_GUEST_IMAGE'];
const skip = whyNoQemu() || (image === undefined ? 'set COLO_GUEST_IMAGE to a guest' : whyNoTap());

const BOOT_MS = 240_000;
const DOWNLOAD_BYTES = 4_000_000;
const ECHO_BYTES = 1_000_000;
/** Largest frame of a NIC without offloads. */
const PLAIN_BYTES = 1514;
/** struct virtio_net_hdr_mrg_rxbuf */
const VNET_HDR_BYTES = 12;
const GSO_TCPV4 = 1;
/** QEMU's for the first NIC. */
const GUEST_MAC = '525400123456';

/** Runs in the namespace; prints what it got as JSON. */
const CLIENT = `
const net = require('node:net');
const http = require('node:http');
http.get('http://10.0.2.15/bytes/${DOWNLOAD_BYTES}', (response) => {
  let body = '';
  response.setEncoding('latin1').on('data', (chunk) => (body += chunk)).on('end', () => {
    const line = '0123456789abcde\\n';
    const wanted = line.repeat(Math.ceil(${DOWNLOAD_BYTES} / line.length)).slice(0, ${DOWNLOAD_BYTES});
    const said = Buffer.alloc(${ECHO_BYTES}, 'an echo, not a voice\\n');
    const heard = [];
    let bytes = 0;
    const echo = net.connect(7, '10.0.2.15', () => echo.write(said));
    echo.on('data', (chunk) => {
      heard.push(chunk);
      bytes += chunk.length;
      if (bytes < said.length) return;
      echo.destroy();
      console.log(JSON.stringify({ download: body === wanted, echo: said.equals(Buffer.concat(heard)) }));
    });
  });
});
`;

const socket = (id: string): string => `-chardev socket,id=${id},path=DIR/${id},server=on,wait=off`;
const OURS = [
  ...['p', 's', 'o', 'n', 'in'].map(socket),
  '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire -netdev hubport,id=h0,hubid=0,netdev=wire',
  '-object filter-redirector,id=f1,netdev=wire,queue=rx,indev=in,vnet_hdr_support=on',
  '-object iothread,id=io -object colo-compare,id=c,iothread=io,vnet_hdr_support=on,compare_timeout=60000,' +
    'primary_in=p,secondary_in=s,outdev=o,notify_dev=n',
].join(' ');

/** What a relay has seen; those that are longer than a NIC's frames may be. */
class Seen {
  frames = 0;
  readonly large: Noted[] = [];
  /** Of the vnet header. */
  readonly lengths = new Set<number>();

  readonly note = (noted: Noted): void => {
    this.frames++;
    this.lengths.add(noted.vnetHdrLen);
    if (isLarge(noted.frame)) this.large.push(noted);
  };
}

const isCut = ({ frame }: Noted): boolean => frame[1] === GSO_TCPV4;
const isLarge = (frame: Uint8Array): boolean => frame.length > PLAIN_BYTES + VNET_HDR_BYTES;
const asHex = (frame: Uint8Array): string => Buffer.from(frame).toString('hex');
const hex = ({ frame }: Noted): string => asHex(frame);

test("a guest's large segments pass our comparer and chain", { skip, timeout: 300_000 }, async (t) => {
  const folder = await testFolder(t);
  const ours = await startBare(t, 'colo', path.join(folder, 'colo'), OURS, async () => {});
  await ours.type(CAPABILITIES);
  const seen = { p: new Seen(), s: new Seen(), o: new Seen(), in: new Seen() };
  for (const id of ['p', 's', 'o', 'in'] as const) {
    const relay = await FrameRelay.start({
      listen: { path: path.join(folder, id) },
      target: { path: path.join(ours.home, id) },
      vnetHdrSupport: true,
      onFrame: seen[id].note,
    });
    t.after(() => relay.close());
  }
  const notify = await FrameSocket.connect(path.join(ours.home, 'n'));
  const wire = await FrameSocket.connect(path.join(ours.home, 'wire'));
  t.after(() => [notify, wire].forEach((peer) => peer.close()));

  const namespace = `colo-gso-${process.pid}`;
  const inside = (...command: string[]) => run('ip', ['netns', 'exec', namespace, ...command]);
  await run('ip', ['netns', 'add', namespace]);
  t.after(() => run('ip', ['netns', 'del', namespace]));
  await inside('ip', 'tuntap', 'add', 'dev', 't0', 'mode', 'tap');
  await inside('ip', 'addr', 'add', '10.0.2.2/24', 'dev', 't0');
  await inside('ip', 'link', 'set', 't0', 'up');
  const vnet = 'netdev=hn0,vnet_hdr_support=on';
  const qemu = spawn(
    'ip',
    ['netns', 'exec', namespace, 'qemu-system-x86_64', '-m', '128', '-accel', 'tcg', '-nodefaults'].concat(
      ['-drive', `file=${image!},format=raw,if=virtio,snapshot=on`, '-display', 'none', '-serial', 'stdio'],
      ['-netdev', 'tap,id=hn0,ifname=t0,script=no,downscript=no,vhost=off,vnet_hdr=on'],
      ['-device', 'virtio-net-pci,netdev=hn0,romfile='],
      ['p', 's', 'o', 'in'].flatMap((id) => ['-chardev', `socket,id=${id},path=${path.join(folder, id)}`]),
      ['-object', `filter-mirror,id=m0,${vnet},queue=tx,outdev=in`],
      ['-object', `filter-redirector,id=redire0,${vnet},queue=rx,indev=o`],
      ['-object', `filter-redirector,id=redire1,${vnet},queue=rx,outdev=p`],
      ['-object', `filter-dump,id=d0,netdev=hn0,queue=rx,file=${path.join(folder, 'dump.pcap')}`],
      ['-object', `filter-mirror,id=m1,${vnet},queue=rx,outdev=s`],
    ),
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  t.after(() => qemu.kill('SIGKILL'));
  const ready = new Deferred<void>();
  let text = '';
  for (const stream of [qemu.stdout, qemu.stderr]) {
    stream.setEncoding('latin1').on('data', (chunk: string) => {
      text += chunk;
      if (text.includes('colo-guest: ready')) ready.resolve();
    });
  }
  qemu.on('exit', () => ready.reject(new Error(`QEMU has ended: ${text}`)));
  await withDeadline(ready.promise, BOOT_MS, 'the guest');

  const { stdout } = await inside('timeout', '120', process.execPath, '-e', CLIENT);
  assert.deepEqual(JSON.parse(stdout), { download: true, echo: true });

  // Each packet of the guest's was found in both, and left as it came, header and all.
  assert.ok(seen.p.large.length > 20, `${seen.p.large.length} large segments`);
  assert.ok(seen.p.large.every(isCut) && seen.p.large.some(({ frame }) => frame.length > 60_000));
  assert.deepEqual([...seen.p.lengths, ...seen.s.lengths, ...seen.o.lengths], Array(3).fill(VNET_HDR_BYTES));
  assert.deepEqual(seen.o.large.map(hex), seen.p.large.map(hex));
  assert.deepEqual(seen.s.large.map(hex), seen.p.large.map(hex));
  assert.equal(seen.o.frames, seen.p.frames);
  // Nobody asked for a checkpoint.
  assert.deepEqual(notify.frames, []);

  // What the host said to the guest came out of our chain, the header in front of it as in QEMU.
  assert.ok(seen.in.large.length > 5 && seen.in.large.every(isCut), `${seen.in.large.length} large segments`);
  await wire.until((frames) => frames.length >= seen.in.frames, 'all that was mirrored');
  assert.deepEqual(wire.frames.filter(isLarge).map(asHex), seen.in.large.map(hex));

  // QEMU's filter-dump writes the header into the capture, where the Ethernet frame should begin.
  const [record] = await readCapture(path.join(folder, 'dump.pcap'));
  assert.equal(asHex(record!.subarray(0, VNET_HDR_BYTES)), '00'.repeat(VNET_HDR_BYTES));
  assert.equal(asHex(record!.subarray(VNET_HDR_BYTES + 6, VNET_HDR_BYTES + 12)), GUEST_MAC);
});
