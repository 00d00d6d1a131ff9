import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Writable } from 'node:stream';
import { test } from 'node:test';
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

test('while the stream is behind nothing that it reads is overwritten', async () => {
  const stream = new Recorder();
  const sender = new BoundedSender(stream);
  const expected: Buffer[] = [];
  for (let round = 0; round < 3; round++) {
    stream.isHeld = true;
    for (let at = 0; at < 200; at++) {
      const frame = Buffer.alloc(1 + ((at * 997) % 9000), at + round);
      assert.equal(sender.send(frame), true);
      expected.push(frame);
      if (at % 7 === 0) await turns(1);
    }
    await turns(1);
    await stream.release();
  }
  assert.ok(Buffer.concat(stream.writes).equals(Buffer.concat(expected)));
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
