/** The comparer between real sockets: what one read brings leaves as one run of frames, whole and in order. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import { ColoCompare } from '../../../src/net/compare/compare.ts';
import { FrameDecoder } from '../../../src/net/framing.ts';
import { portOf, socketConfig, tempFolder } from '../chardev/support.ts';
import { tcp, udp } from './frames.ts';
import { framed } from './memory-chardev.ts';

interface Wires {
  readonly compare: ColoCompare;
  readonly outdev: SocketChardev;
  readonly primary: net.Socket;
  readonly secondary: net.Socket;
  readonly out: net.Socket;
  /** Another peer in place of `out`. */
  readonly again: () => Promise<net.Socket>;
}

async function wires(t: TestContext, isTcp = false): Promise<Wires> {
  const folder = await tempFolder(t);
  const open = async (id: string): Promise<SocketChardev> => {
    const chardev = new SocketChardev(
      socketConfig(isTcp ? { id } : { id, address: { type: 'unix', path: path.join(folder, id) } }),
    );
    t.after(() => chardev.close());
    await chardev.open();
    return chardev;
  };
  const [primaryIn, secondaryIn, outdev] = [await open('p'), await open('s'), await open('o')];
  const compare = new ColoCompare('c', { primaryIn, secondaryIn, outdev, compareTimeoutMs: 60_000 });
  t.after(() => compare.close());
  const connect = async (id: string, chardev: SocketChardev): Promise<net.Socket> => {
    const socket = isTcp ? net.connect(portOf(chardev), '127.0.0.1') : net.connect(path.join(folder, id));
    socket.on('error', () => undefined);
    t.after(() => socket.destroy());
    await once(socket, 'connect');
    await chardev.waitConnected();
    return socket;
  };
  return {
    compare,
    outdev,
    primary: await connect('p', primaryIn),
    secondary: await connect('s', secondaryIn),
    out: await connect('o', outdev),
    again: () => connect('o', outdev),
  };
}

/** Resolves with the next `length` bytes. */
async function read(socket: net.Socket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for (let have = 0; have < length; have += chunks.at(-1)!.length) {
    chunks.push(((await once(socket, 'data')) as [Buffer])[0]);
  }
  return Buffer.concat(chunks);
}

const frames = (count: number, from = 0): Uint8Array[] =>
  Array.from({ length: count }, (_, at) =>
    udp(Buffer.alloc(1 + (((from + at) * 211) % 1400), from + at), { sourcePort: 1000 + ((from + at) % 7) }),
  );
const run = (list: readonly Uint8Array[]): Buffer => Buffer.concat(list.map((frame) => framed(frame)));

test('a run of frames comes out as it went in, whoever is first, in whatever pieces', async (t) => {
  const { compare, outdev, primary, secondary, out } = await wires(t);
  const all = run(frames(600));
  const done = read(out, all.length);
  // The pieces of the two sides end in different places of different frames.
  let [first, second] = [0, 0];
  while (first < all.length || second < all.length) {
    primary.write(all.subarray(first, (first += 33_333)));
    secondary.write(all.subarray(second, (second += 40_001)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok((await done).equals(all));
  assert.equal(compare.stats.released, 600);
  assert.equal(outdev.bytesOut, all.length);
});

test('what was released before the same read turned out to be no frames still leaves', async (t) => {
  const { primary, secondary, out } = await wires(t);
  const all = run(frames(20));
  const gone = once(primary.resume(), 'close');
  primary.write(Buffer.from([0, 0, 0, 0]));
  secondary.write(all);
  const done = read(out, all.length);
  primary.write(Buffer.concat([all, Buffer.from('ffffffff', 'hex'), all]));
  assert.ok((await done).equals(all));
  await gone;
});

test('a peer of outdev gets whole frames only, also when its predecessor left in between', async (t) => {
  const { primary, secondary, out, again } = await wires(t);
  const old = run(frames(300));
  out.pause();
  secondary.write(old);
  primary.write(old);
  out.destroy();
  const next = await again();
  const known = new Set(frames(350).map((frame) => Buffer.from(frame).toString('hex')));
  const seen: string[] = [];
  const decoder = new FrameDecoder({
    onFrame: (bytes, from, to) => seen.push(Buffer.from(bytes.subarray(from, to)).toString('hex')),
    onError: (error) => assert.fail(error),
  });
  next.on('data', (chunk: Buffer) => decoder.push(chunk));
  // Until the chardev has noticed that the first peer has gone, what it is given goes there.
  const last = frames(50, 300);
  const speak = setInterval(() => {
    secondary.write(run(last));
    primary.write(run(last));
  }, 10);
  t.after(() => clearInterval(speak));
  while (seen.at(-1) !== Buffer.from(last.at(-1)!).toString('hex')) await once(next, 'data');
  assert.deepEqual(
    seen.filter((frame) => !known.has(frame)),
    [],
  );
});

test('megabytes of one connection that wait on both sides overflow no queue', async (t) => {
  const { compare, primary, secondary, out } = await wires(t, true);
  const overflow = new Promise<never>((_, reject) => {
    compare.onAsked = ({ cause }) => reject(new Error(`a checkpoint is asked for: ${cause}`));
  });
  const payload = Buffer.alloc(1446, 'x');
  // Of so many the kernel holds more than `max_queue_size`.
  const count = 4000;
  for (const isPrimaryFirst of [true, false]) {
    const from = isPrimaryFirst ? 0 : count;
    const all = run(
      Array.from({ length: count }, (_, at) =>
        tcp({ seq: 1 + (from + at) * payload.length, ack: 1, payload }),
      ),
    );
    const done = read(out, all.length);
    (isPrimaryFirst ? primary : secondary).write(all);
    (isPrimaryFirst ? secondary : primary).write(all);
    assert.ok((await Promise.race([done, overflow])).equals(all));
  }
  assert.deepEqual([compare.stats.droppedPrimary, compare.stats.droppedSecondary], [0, 0]);
  assert.equal(compare.stats.released, 2 * count);
});
