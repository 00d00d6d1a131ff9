// What is asked of a source and what is sent: once for all, only when it has changed, never without bound.
import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import type { WebSocket } from 'ws';
import { EventEmitter } from 'node:events';
import { ColoError } from '../../../src/base/errors.ts';
import { KEPT_EVENTS } from '../../../src/dashboard/events-feed.ts';
import { Feed, MAX_WATCHED_VMS } from '../../../src/dashboard/feed.ts';
import { MAX_PIPE_UNSENT_BYTES, pipe } from '../../../src/dashboard/pipe.ts';
import type { ServerMessage } from '../../../src/dashboard/protocol.ts';
import { MAX_UNANSWERED, Questions } from '../../../src/dashboard/questions.ts';
import {
  closeReason,
  MAX_UNSENT_BYTES,
  PICTURE_UNSENT_BYTES,
  Watcher,
} from '../../../src/dashboard/watcher.ts';
import { FalseSource } from '../../helpers/dashboard-source.ts';

/** The server's end of a WebSocket whose other end reads when it is told to. */
class FalseSocket extends EventEmitter {
  bufferedAmount = 0;
  readonly sent: ServerMessage[] = [];
  closedWith: number | null = null;
  isTerminated = false;
  isPaused = false;
  reads = true;
  #unread: (() => void)[] = [];

  send(bytes: Buffer, options: { binary: boolean }, done: () => void): void {
    if (!options.binary) this.sent.push(JSON.parse(bytes.toString()) as ServerMessage);
    this.bufferedAmount += bytes.length;
    this.#unread.push(() => {
      this.bufferedAmount -= bytes.length;
      done();
    });
    this.emit('sent');
    if (this.reads) this.read();
  }

  read(): void {
    for (const take of this.#unread.splice(0)) take();
  }

  close(code: number): void {
    this.closedWith ??= code;
  }

  terminate(): void {
    this.isTerminated = true;
    this.emit('close');
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
  }

  async until(isThere: () => boolean): Promise<void> {
    while (!isThere()) await new Promise((resolve) => this.once('sent', resolve));
  }

  has(type: ServerMessage['type']): boolean {
    return this.sent.some((message) => message.type === type);
  }
}

function watcher(): { socket: FalseSocket; watcher: Watcher } {
  const socket = new FalseSocket();
  return { socket, watcher: new Watcher(socket as unknown as WebSocket) };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('nothing is asked while nobody watches; many watchers ask no more than one', async () => {
  const source = new FalseSource();
  const feed = new Feed(source);
  await turn();
  assert.deepEqual(Object.values(source.asked), [0, 0, 0, 0, 0, 0, 0, 0]);
  const all = Array.from({ length: 10 }, () => watcher());
  for (const one of all) {
    feed.add(one.watcher);
    feed.watch(one.watcher, 'web');
  }
  const first = all[0]!.socket;
  const looks = (): number => source.asked.vms;
  while (looks() < 3) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([source.asked.events, source.asked.hosts, source.asked.primary], [1, looks(), 1]);
  for (const { socket } of all) {
    // Nothing has changed since the first look, but that the second one makes rates.
    const kinds = socket.sent.map(({ type }) => type).sort();
    assert.deepEqual(kinds, ['checkpoints', 'cluster', 'events', 'pair', 'pair']);
  }
  source.event({ reason: 'news' });
  await first.until(() => first.sent.filter(({ type }) => type === 'events').length === 2);
  for (const one of all) feed.remove(one.watcher);
  await turn();
  const asked = { ...source.asked };
  // Longer than any pause between two looks.
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  assert.deepEqual(source.asked, asked);
});

test('who comes later is told what is known, and a tail of the events', async () => {
  const source = new FalseSource();
  for (let n = 0; n < 3 * KEPT_EVENTS; n++) source.event({ reason: `${n}` });
  const feed = new Feed(source);
  const early = watcher();
  feed.add(early.watcher);
  feed.watch(early.watcher, 'web');
  await early.socket.until(() =>
    (['events', 'cluster', 'pair'] as const).every((type) => early.socket.has(type)),
  );
  const late = watcher();
  feed.add(late.watcher);
  feed.watch(late.watcher, 'web');
  // At once, without a look of its own.
  const byKind = new Map(late.socket.sent.map((message) => [message.type, message]));
  assert.deepEqual([...byKind.keys()].sort(), ['checkpoints', 'cluster', 'events', 'pair']);
  const { events } = byKind.get('events') as Extract<ServerMessage, { type: 'events' }>;
  assert.equal(events.length, KEPT_EVENTS);
  assert.equal(events.at(-1)?.reason, `${3 * KEPT_EVENTS - 1}`);
  feed.close();
});

test('a source that fails or hangs is told of, and asked again', async () => {
  const source = new FalseSource();
  const feed = new Feed(source, 50);
  const { socket, watcher: one } = watcher();
  const troubles = (): (string | null)[] =>
    socket.sent.flatMap((message) => (message.type === 'trouble' ? [message.message] : []));
  source.fail(new ColoError('the registry is out of reach'));
  feed.add(one);
  await socket.until(() => troubles().at(-1) === 'the registry is out of reach');
  source.fail(null);
  await socket.until(() => troubles().at(-1) === null && socket.has('cluster'));
  const goOn = source.hang();
  await socket.until(() => troubles().at(-1)?.includes('no answer') === true);
  goOn();
  await socket.until(() => troubles().at(-1) === null);
  feed.close();
});

test('questions that hang are bounded', async () => {
  const questions = new Questions('the source', 5);
  const { signal } = new AbortController();
  let asked = 0;
  let end = (): void => undefined;
  const hanging = new Promise<void>((resolve) => (end = resolve));
  const ask = (): Promise<void> => questions.ask(() => (asked++, hanging), signal);
  for (let n = 0; n < MAX_UNANSWERED + 3; n++) await assert.rejects(ask(), { name: 'TimeoutError' });
  assert.equal(asked, MAX_UNANSWERED);
  end();
  await turn();
  await ask();
});

test('VMs that are watched at a time are bounded', () => {
  const feed = new Feed(new FalseSource());
  const all = Array.from({ length: MAX_WATCHED_VMS + 1 }, () => watcher());
  all.forEach((one, at) => {
    feed.add(one.watcher);
    feed.watch(one.watcher, `vm-${at}`);
  });
  const { socket, watcher: last } = all.at(-1)!;
  assert.match(JSON.stringify(socket.sent), /are watched on other pages/);
  feed.watch(all[0]!.watcher, null);
  feed.watch(last, 'web');
  feed.close();
});

test('a slow reader: pictures replace each other, the rest is bounded', () => {
  const { socket, watcher: slow } = watcher();
  socket.reads = false;
  const picture = (n: number): Buffer =>
    Buffer.from(JSON.stringify({ type: 'cluster', n, fill: 'x'.repeat(100_000) }));
  for (let n = 0; n < 100; n++) slow.picture('cluster', picture(n));
  assert.ok(socket.bufferedAmount <= PICTURE_UNSENT_BYTES + 200_000);
  const before = socket.sent.length;
  socket.reads = true;
  socket.read();
  // Of those that were skipped the newest, once.
  assert.equal(socket.sent.length, before + 1);
  assert.equal((socket.sent.at(-1) as unknown as { n: number }).n, 99);
  socket.reads = false;
  for (let n = 0; n < 1_000 && !socket.isTerminated; n++) slow.tell(picture(n));
  assert.ok(socket.isTerminated);
  assert.equal(socket.closedWith, 1013);
  assert.ok(socket.bufferedAmount <= MAX_UNSENT_BYTES + 200_000);
});

test('a browser that does not read makes the console wait, a console that does not read the browser', async () => {
  const socket = new FalseSocket();
  const [guest, port] = [new PassThrough({ highWaterMark: 1024 }), new PassThrough({ highWaterMark: 1024 })];
  // One Duplex of the two: what is pushed comes from the guest, what is written goes to it.
  const both = Object.assign(guest, { write: port.write.bind(port) });
  port.on('drain', () => guest.emit('drain'));
  socket.reads = false;
  pipe(socket as unknown as WebSocket, both, { isReadOnly: false });
  for (let n = 0; n < 1_000 && !guest.isPaused(); n++) {
    guest.push(Buffer.alloc(1024));
    await turn();
  }
  assert.ok(guest.isPaused());
  assert.ok(socket.bufferedAmount <= MAX_PIPE_UNSENT_BYTES + 2048);
  socket.reads = true;
  socket.read();
  assert.equal(guest.isPaused(), false);

  socket.emit('message', Buffer.alloc(2048));
  assert.ok(socket.isPaused);
  port.resume();
  while (socket.isPaused) await turn();
  socket.emit('close');
  assert.ok(guest.destroyed);
});

test('a reason fits into a close frame, and no character is cut in two', () => {
  assert.equal(closeReason('short'), 'short');
  const cut = closeReason('ü'.repeat(100));
  assert.ok(Buffer.byteLength(cut) <= 123);
  assert.match(cut, /^ü+$/);
});
