/**
 * What is no frame, on every socket that frames travel on: a frame of no bytes is skipped, one that never ends goes with
 * its connection, one that is too long ends its connection. Whatever it was, the next good frame gets through.
 */
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { FrameDecoder, MAX_FRAME_BYTES, encodeHeader } from '../../../src/net/framing.ts';
import { testFolder } from '../../helpers/bare-process.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import { udp } from './frames.ts';

const PATIENCE_MS = 10_000;

/** One connection to a socket of the VM. */
class Peer {
  readonly frames: Uint8Array[] = [];
  readonly #socket: net.Socket;
  readonly #closed: Promise<unknown>;
  readonly #hasWord: boolean;
  #changed = new Deferred<void>();

  private constructor(socket: net.Socket, hasWord: boolean, hears: boolean) {
    this.#socket = socket;
    this.#hasWord = hasWord;
    this.#closed = once(socket, 'close');
    const decoder = new FrameDecoder({
      vnetHdrSupport: hears,
      onFrame: (bytes, from, to) => this.frames.push(new Uint8Array(bytes.subarray(from, to))),
      onError: (error) => {
        throw error;
      },
    });
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      decoder.push(chunk);
      this.#changed.resolve();
      this.#changed = new Deferred<void>();
    });
  }

  /** `hasWord`: its frames have the vnet word; `hears`: those that it is sent. */
  static async connect(t: TestContext, file: string, hasWord = false, hears = hasWord): Promise<Peer> {
    const socket = net.connect(file);
    await once(socket, 'connect');
    t.after(() => socket.destroy());
    return new Peer(socket, hasWord, hears);
  }

  header(frameBytes: number): Uint8Array {
    return new Uint8Array(encodeHeader(new Uint8Array(8), frameBytes, this.#hasWord ? 0 : null));
  }

  send(frame: Uint8Array): void {
    this.bytes(this.header(frame.length), frame);
  }

  bytes(...pieces: Uint8Array[]): void {
    this.#socket.write(Buffer.concat(pieces));
  }

  end(): void {
    this.#socket.destroy();
  }

  async closed(): Promise<void> {
    await withDeadline(this.#closed, PATIENCE_MS, 'the end of the connection');
  }

  async says(frame: Uint8Array): Promise<void> {
    const isThere = (): boolean => this.frames.some((one) => Buffer.compare(one, frame) === 0);
    const wait = async (): Promise<void> => {
      while (!isThere()) await this.#changed.promise;
    };
    await withDeadline(wait(), PATIENCE_MS, 'a frame');
    this.frames.length = 0;
  }
}

const socket = (id: string): string => `-chardev socket,id=${id},path=DIR/${id},server=on,wait=off`;
const LINE = [
  '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire',
  '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest',
  '-netdev hubport,id=h0,hubid=0,netdev=wire -netdev hubport,id=h1,hubid=0,netdev=guest',
  ...['mirrored', 'redirected', 'in', 'worded', 'p', 's', 'o', 'n'].map(socket),
  '-object iothread,id=io',
  '-object filter-mirror,id=m0,netdev=wire,queue=tx,outdev=mirrored',
  '-object filter-redirector,id=r0,netdev=wire,queue=rx,indev=in',
  '-object filter-redirector,id=r1,netdev=wire,queue=rx,indev=worded,vnet_hdr_support=on',
  '-object filter-redirector,id=r2,netdev=guest,queue=tx,outdev=redirected',
  '-object colo-compare,id=c,primary_in=p,secondary_in=s,outdev=o,notify_dev=n,iothread=io,compare_timeout=60000,vnet_hdr_support=on',
].join(' ');

/** A socket that is read: what goes in there comes out at `out`. */
interface Input {
  readonly name: string;
  readonly hasWord?: boolean;
  /** Given to the input, and what is to come out. */
  readonly good: Uint8Array;
  readonly out: string;
  readonly comesOut: Uint8Array;
  /** Given to another input at the same time. */
  readonly beside?: { readonly to: string; readonly frame: Uint8Array };
}

const hello = Buffer.from('COLO_USERSPACE_PROXY_INIT');
const INPUTS: readonly Input[] = [
  { name: 'wire', good: udp('in'), out: 'mirrored', comesOut: udp('in') },
  { name: 'guest', good: udp('out'), out: 'redirected', comesOut: udp('out') },
  { name: 'in', good: udp('injected'), out: 'wire', comesOut: udp('injected') },
  { name: 'worded', hasWord: true, good: udp('injected'), out: 'wire', comesOut: udp('injected') },
  {
    name: 'p',
    hasWord: true,
    good: udp('same'),
    out: 'o',
    comesOut: udp('same'),
    beside: { to: 's', frame: udp('same') },
  },
  {
    name: 's',
    hasWord: true,
    good: udp('same'),
    out: 'o',
    comesOut: udp('same'),
    beside: { to: 'p', frame: udp('same') },
  },
  { name: 'n', hasWord: true, good: hello, out: 'n', comesOut: Buffer.from('COLO_COMPARE_GET_XEN_INIT') },
];

test('no bad frame harms what comes behind it, on any socket that is read', async (t) => {
  const folder = await testFolder(t);
  await bareVm(t, LINE.replaceAll('DIR', folder));
  // What notify_dev says has no word, what it hears has.
  const open = (name: string, hasWord = false): Promise<Peer> =>
    Peer.connect(t, path.join(folder, name), hasWord, hasWord && name !== 'n');
  const peers = new Map<string, Peer>();
  for (const name of ['wire', 'guest', 'mirrored', 'redirected']) peers.set(name, await open(name));
  for (const name of ['p', 's', 'o']) peers.set(name, await open(name, true));
  for (const { name, hasWord, good, out, comesOut, beside } of INPUTS) {
    peers.get(name)?.end();
    await peers.get(name)?.closed();
    const plug = async (): Promise<Peer> => {
      const peer = await open(name, hasWord);
      peers.set(name, peer);
      return peer;
    };
    const isThere = async (peer: Peer): Promise<void> => {
      if (beside) peers.get(beside.to)!.send(beside.frame);
      peer.send(good);
      await peers.get(out)!.says(comesOut);
    };
    await t.test(name, async () => {
      let peer = await plug();
      await isThere(peer);
      // No bytes: skipped, on the same connection, also between two pieces of one write.
      peer.bytes(peer.header(0), peer.header(0));
      await isThere(peer);
      // Half a frame: gone with its connection.
      peer.bytes(peer.header(100), new Uint8Array(50));
      peer.end();
      peer = await plug();
      await isThere(peer);
      // Half a header.
      peer.bytes(peer.header(100).subarray(0, 3));
      peer.end();
      peer = await plug();
      await isThere(peer);
      // Too long by one: the connection ends, with a good frame behind it.
      peer.bytes(peer.header(MAX_FRAME_BYTES + 1), good);
      await peer.closed();
      peer = await plug();
      // The longest there is, whatever becomes of it.
      peer.send(new Uint8Array(MAX_FRAME_BYTES));
      await isThere(peer);
    });
  }
});

test('what a peer says where nothing is expected harms nothing', async (t) => {
  const folder = await testFolder(t);
  await bareVm(t, LINE.replaceAll('DIR', folder));
  const open = (name: string, hasWord = false): Promise<Peer> =>
    Peer.connect(t, path.join(folder, name), hasWord);
  const [wire, guest] = [await open('wire'), await open('guest')];
  const [mirrored, redirected] = [await open('mirrored'), await open('redirected')];
  const [p, s, o] = [await open('p', true), await open('s', true), await open('o', true)];
  for (const noise of [Buffer.alloc(3), Buffer.alloc(4, 0xff), Buffer.alloc(100_000, 7)]) {
    for (const peer of [mirrored, redirected, o]) peer.bytes(noise);
    wire.send(udp('in'));
    await mirrored.says(udp('in'));
    guest.send(udp('out'));
    await redirected.says(udp('out'));
    p.send(udp('same'));
    s.send(udp('same'));
    await o.says(udp('same'));
  }
});
