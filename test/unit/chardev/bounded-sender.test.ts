import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import fc from 'fast-check';
import { takePacketMemory } from '../../../src/base/packet-memory.ts';
import { BoundedSender } from '../../../src/chardev/bounded-sender.ts';
import { FrameOutput } from '../../../src/net/frame-output.ts';
import { RecordingFrontend, connectTo, openSocket, turns } from './support.ts';

/** Records each write; takes it at once, or with `isHeld` when the test says so. */
class Recorder extends Writable {
  readonly writes: Buffer[] = [];
  isHeld = false;
  #take: (() => void)[] = [];

  constructor() {
    super({ highWaterMark: 1 });
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    // Until it is done the memory is the stream's.
    const take = (): void => {
      this.writes.push(Buffer.from(chunk));
      done();
    };
    if (this.isHeld) this.#take.push(take);
    else take();
  }

  /** Lets what is held be taken. */
  async release(): Promise<void> {
    this.isHeld = false;
    while (this.writableLength > 0) {
      for (const take of this.#take.splice(0)) take();
      await turns(1);
    }
  }

  get text(): string {
    return Buffer.concat(this.writes).toString('latin1');
  }
}

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

test('what one callback sends leaves as one write, when it has ended', async () => {
  const stream = new Recorder();
  const sender = new BoundedSender(stream);
  const body = bytes('..b..');
  for (let i = 0; i < 5; i++) assert.equal(sender.send(bytes(String(i)), body, 2, 3), true);
  body.fill(0);
  assert.equal(stream.writes.length, 0);
  assert.equal(sender.bytesSent, 10);
  await turns(1);
  assert.deepEqual(stream.writes.map(String), ['0b1b2b3b4b']);
  sender.send(bytes('next'));
  await Promise.resolve();
  sender.send(bytes(' and so on'));
  await turns(1);
  assert.deepEqual(stream.writes.map(String).slice(1), ['next and so on']);
});

test('a piece that has grown large leaves at once', async () => {
  const stream = new Recorder();
  const sender = new BoundedSender(stream);
  const frame = Buffer.alloc(1000);
  let sent = 0;
  for (; stream.writes.length === 0; sent++) {
    assert.ok(sent < 1000, 'nothing leaves');
    frame.fill(sent);
    sender.send(bytes('head'), frame);
  }
  assert.ok(stream.writes[0]!.length <= 64 * 1024 + 1004);
  assert.equal(stream.writes[0]!.length, sent * 1004);
  sender.send(bytes('tail'));
  await turns(1);
  assert.equal(stream.writes.length, 2);
  assert.equal(String(stream.writes[1]), 'tail');
});

test('the bound counts what waits for the end of the callback, and refuses whole', async () => {
  const stream = new Recorder();
  stream.isHeld = true;
  const sender = new BoundedSender(stream, 10);
  assert.equal(sender.send(bytes('1234'), bytes('56')), true);
  assert.equal(sender.send(bytes('12'), bytes('345')), false);
  assert.equal(sender.send(bytes('789a')), true);
  assert.equal(sender.send(bytes('b')), false);
  await turns(1);
  assert.equal(sender.send(bytes('b')), false);
  assert.equal(sender.bytesSent, 10);
  await stream.release();
  assert.equal(sender.send(bytes('b')), true);
  await turns(1);
  assert.equal(stream.text, '123456789ab');
});

/** A kernel that takes a write bit by bit: what it has not taken yet it reads from the writer's memory. */
class SlowKernel extends Writable {
  /** Which 64 KiB of the block were written from; -1: other memory. */
  readonly places = new Set<number>();
  readonly #taken: Buffer[] = [];
  #chunks: Buffer[] = [];
  #done: ((error?: Error) => void) | null = null;

  constructor(canGather: boolean) {
    super({ highWaterMark: 1 });
    if (!canGather) return;
    this._writev = (chunks, done) =>
      this.#begin(
        chunks.map(({ chunk }) => chunk as Buffer),
        done,
      );
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    this.#begin([chunk], done);
  }

  /** A write that ends within the call is one that found room. */
  room = 0;

  #begin(chunks: Buffer[], done: (error?: Error) => void): void {
    for (const { buffer, byteOffset } of chunks) {
      this.places.add(buffer === block ? Math.floor(byteOffset / (64 * 1024)) : -1);
    }
    this.#chunks = chunks;
    this.#done = done;
    this.take(this.room);
  }

  /** Takes up to `count` bytes of what has been written. */
  take(count: number): void {
    let left = count;
    while (left > 0) {
      const first = this.#chunks[0];
      if (first === undefined) break;
      const part = first.subarray(0, left);
      this.#taken.push(Buffer.from(part));
      left -= part.length;
      if (part.length < first.length) this.#chunks[0] = first.subarray(part.length);
      else this.#chunks.shift();
    }
    this.room = left;
    const done = this.#done;
    if (this.#chunks.length > 0 || done === null) return;
    this.#done = null;
    done();
  }

  /** All of it, when nothing more is sent. */
  async drain(): Promise<Buffer> {
    while (this.writableLength > 0) {
      this.take(1 << 20);
      await turns(1);
    }
    return Buffer.concat(this.#taken);
  }
}

const block = takePacketMemory(64).buffer;

test('nothing that the stream still reads is overwritten, however slowly it reads', async () => {
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ do: fc.constant('send' as const), size: fc.integer({ min: 1, max: 9000 }) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constant('send' as const),
        size: fc.integer({ min: 60_000, max: 69_640 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('turn' as const) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('take' as const), size: fc.nat(80_000) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('flush' as const) }) },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 250, size: 'max' }),
      fc.boolean(),
      async (steps, canGather) => {
        const stream = new SlowKernel(canGather);
        const sender = new BoundedSender(stream, 1024 * 1024);
        const expected: Buffer[] = [];
        // The sender looks at the stream once a piece, so what was taken since may count as being there.
        let high = 0;
        for (const [at, one] of steps.entries()) {
          high = Math.max(high, stream.writableLength);
          if (one.do === 'send') {
            const frame = Buffer.alloc(one.size, at + 1);
            if (sender.send(frame)) expected.push(frame);
            else assert.ok(high + 64 * 1024 + one.size > 1024 * 1024, 'refused with room left');
          } else if (one.do === 'take') stream.take(one.size);
          else if (one.do === 'flush') sender.flush();
          else {
            await turns(1);
            high = stream.writableLength;
          }
        }
        sender.flush();
        assert.ok((await stream.drain()).equals(Buffer.concat(expected)));
      },
    ),
    { numRuns: 60 },
  );
});

test('a stream that takes all at once is served from one place', async () => {
  const stream = new SlowKernel(false);
  stream.room = Infinity;
  const sender = new BoundedSender(stream);
  for (let round = 0; round < 200; round++) {
    for (let at = 0; at < 50; at++) sender.send(Buffer.alloc(1500, at));
    // Two writes: one that has grown large, and the rest.
    await turns(1);
  }
  assert.equal((await stream.drain()).length, 200 * 50 * 1500);
  // One slab may lie over three of them.
  assert.ok(stream.places.size <= 3, `${stream.places.size} places`);
});

test('a stream that is always behind and never stuck is served from a few places, used again and again', async () => {
  const stream = new SlowKernel(true);
  const sender = new BoundedSender(stream);
  const frame = Buffer.alloc(1500);
  const aLap = 50;
  for (let lap = 0; lap < 400; lap++) {
    for (let at = 0; at < aLap; at++) {
      frame.fill(lap ^ at);
      assert.equal(sender.send(frame), true);
    }
    await turns(1);
    // From the third lap on two are under way.
    if (lap >= 2) stream.take(aLap * frame.length);
    assert.ok(lap < 2 || stream.writableLength > 0, 'the stream is empty');
  }
  assert.ok(!stream.places.has(-1), 'memory of its own');
  const all = await stream.drain();
  assert.equal(all.length, 400 * aLap * frame.length);
  for (let at = 0; at < 400 * aLap; at++) {
    const value = Math.floor(at / aLap) ^ (at % aLap);
    assert.ok(
      all.subarray(at * 1500, (at + 1) * 1500).every((byte) => byte === (value & 0xff)),
      `frame ${at}`,
    );
  }
  assert.ok(stream.places.size < 16, `${stream.places.size} places for 400 writes`);
});

test('a stream that ends before the callback takes what waits along', async () => {
  const stream = new Recorder();
  const sender = new BoundedSender(stream);
  sender.send(bytes('lost'));
  stream.destroy();
  await turns(1);
  assert.equal(stream.writes.length, 0);
  assert.equal(sender.send(bytes('x')), false);
});

test('what was accepted before a chardev closes or loses its user still leaves', async (t) => {
  const server = await openSocket(t);
  const peer = await connectTo(t, server);
  let got = '';
  peer.on('data', (chunk: Buffer) => (got += chunk.toString('latin1')));
  const user = new RecordingFrontend();
  server.attach(user, 'test');
  await user.until(() => user.calls.length === 1);
  server.write(bytes('before'));
  server.detach(user);
  await turns(1);
  server.write(bytes(' after'));
  await server.close();
  await once(peer, 'end');
  assert.equal(got, 'before after');
});

test('a batch belongs to its connection, and so does the count', async (t) => {
  const server = await openSocket(t);
  const output = new FrameOutput(server, false);
  const first = await connectTo(t, server);
  await server.waitConnected();
  first.destroy();
  await once(first, 'close');
  // Whether the loss is known already or not: what is sent now never reaches the next peer.
  output.write(bytes('old'), 0);
  const second = await connectTo(t, server);
  while (server.connection === null || server.bytesOut > 0) {
    output.write(bytes('old'), 0);
    await turns(1);
    if (server.connection?.incoming.startsWith(`127.0.0.1:${second.localPort}>`)) break;
  }
  const before = server.bytesOut;
  output.write(bytes('new'), 0);
  const [mark] = output.marks();
  assert.deepEqual(mark, { stream: server.connection.outgoing, bytes: before + 7 });
  output.write(bytes('behind the mark'), 0);
  const chunks: Buffer[] = [];
  for (let length = 0; length < before + 7 + 19;) {
    const [chunk] = (await once(second, 'data')) as [Buffer];
    chunks.push(chunk);
    length += chunk.length;
  }
  const all = Buffer.concat(chunks);
  assert.equal(all.subarray(0, mark.bytes).toString('latin1').slice(-7), '\0\0\0\x03new');
  assert.equal(all.subarray(mark.bytes).toString('latin1'), '\0\0\0\x0fbehind the mark');
});
