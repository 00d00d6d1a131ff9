import assert from 'node:assert/strict';
import { setMaxListeners } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { IoError } from '../../../src/base/errors.ts';
import { nestOptions, OptionReader } from '../../../src/block/options.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { openNbd } from '../../../src/block/drivers/nbd.ts';
import type { ClientAgreement } from '../../../src/nbd/handshake-client.ts';
import { NbdClient, NbdServer } from '../../../src/nbd/index.ts';
import {
  ReconnectingConnection,
  whatIsWorse,
  type NbdRequester,
} from '../../../src/nbd/reconnecting-connection.ts';
import { MemorySource, startServer } from './support.ts';

const AGREEMENT: ClientAgreement = {
  sizeBytes: 4096,
  flags: 0x0ded,
  structured: true,
  allocationId: 0,
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  maxBlockBytes: 2 ** 25,
  description: '',
};

/** A server's end as the class under test sees it: requests by offset, answered or lost when the test says so. */
class FakeConnection implements NbdRequester {
  readonly agreement: ClientAgreement;
  death: IoError | null = null;
  onLost: ((error: IoError) => void) | null = null;
  readonly asked: number[] = [];
  readonly #pending: { offset: number; answer: Deferred<readonly []> }[] = [];
  isAborted = false;

  constructor(agreement: Partial<ClientAgreement> = {}) {
    this.agreement = { ...AGREEMENT, ...agreement };
  }

  request(_type: number, _flags: number, offset: number): Promise<readonly []> {
    if (this.death) return Promise.reject(this.death);
    this.asked.push(offset);
    const answer = new Deferred<readonly []>();
    this.#pending.push({ offset, answer });
    return answer.promise;
  }

  reply(offset: number, error?: IoError): void {
    const at = this.#pending.findIndex((pending) => pending.offset === offset);
    const answer = this.#pending.splice(at, 1)[0]!.answer;
    if (error) answer.reject(error);
    else answer.resolve([]);
  }

  lose(): void {
    this.death = new IoError('EIO', 'lost');
    for (const { answer } of this.#pending.splice(0)) answer.reject(this.death);
    this.onLost?.(this.death);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  abort(): void {
    this.isAborted = true;
  }
}

interface Rig {
  readonly connection: ReconnectingConnection;
  readonly first: FakeConnection;
  /** Attempts to connect so far. */
  readonly attempts: () => number;
  /** Lets the present attempt succeed, or fail. */
  readonly come: (next: FakeConnection | Error) => Promise<void>;
  readonly ask: (offset: number) => Promise<unknown>;
  /** What requests came to, in the order in which it happened: `5 ok`, `6 EIO`. */
  readonly ended: string[];
}

const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};

function rig(delayMs = 10_000): Rig {
  const first = new FakeConnection();
  const attempts: Deferred<NbdRequester>[] = [];
  const connection = new ReconnectingConnection(
    first,
    (signal) => {
      const attempt = new Deferred<NbdRequester>();
      setMaxListeners(0, signal);
      signal.addEventListener('abort', () => attempt.reject(signal.reason));
      attempts.push(attempt);
      return attempt.promise;
    },
    delayMs,
  );
  const ended: string[] = [];
  return {
    connection,
    first,
    ended,
    attempts: () => attempts.length,
    come: async (next) => {
      const attempt = attempts.at(-1);
      assert.ok(attempt && !attempt.settled, 'no attempt is under way');
      if (next instanceof Error) attempt.reject(next);
      else attempt.resolve(next);
      await turns();
    },
    ask: (offset) =>
      connection.request(1, 0, offset, 1).then(
        () => ended.push(`${offset} ok`),
        (error: unknown) => ended.push(`${offset} ${(error as IoError).errno}`),
      ),
  };
}

const fakeTimers = (t: TestContext): void => t.mock.timers.enable({ apis: ['setTimeout'] });

describe('ReconnectingConnection', () => {
  it('sends again what had no reply, in order, and nothing that had one', async (t) => {
    fakeTimers(t);
    const { connection, first, come, ask, ended } = rig();
    const asked = [1, 2, 3, 4].map(ask);
    await turns();
    first.reply(2);
    first.reply(3, new IoError('ENOSPC', 'full'));
    await turns();
    first.lose();
    asked.push(ask(5));
    await turns();
    assert.equal(connection.isConnected, false);
    assert.equal(connection.death, null);
    const second = new FakeConnection();
    await come(second);
    assert.deepEqual(second.asked, [1, 4, 5]);
    for (const offset of second.asked) second.reply(offset);
    await Promise.all(asked);
    assert.deepEqual(ended, ['2 ok', '3 ENOSPC', '1 ok', '4 ok', '5 ok']);
  });

  it('fails who waits when the delay is over, in order; then everybody at once, until the server is back', async (t) => {
    fakeTimers(t);
    const { first, come, ask, ended } = rig(5000);
    void ask(1);
    await turns();
    first.lose();
    void ask(2);
    void ask(3);
    t.mock.timers.tick(4999);
    await turns();
    assert.equal(ended.length, 0);
    t.mock.timers.tick(1);
    await turns();
    assert.deepEqual(ended, ['1 EIO', '2 EIO', '3 EIO']);
    await ask(4);
    assert.equal(ended.at(-1), '4 EIO');
    const second = new FakeConnection();
    await come(second);
    const last = ask(5);
    second.reply(5);
    await last;
    assert.equal(ended.at(-1), '5 ok');
  });

  it('tries again after pauses that double, and at once after a success', async (t) => {
    fakeTimers(t);
    const { first, come, attempts, ask } = rig(1_000_000);
    first.lose();
    const pauses = [];
    for (let round = 0; round < 8; round++) {
      const before = attempts();
      await come(new Error('refused'));
      let ms = 0;
      for (; attempts() === before; ms += 100) {
        t.mock.timers.tick(100);
        await turns();
      }
      pauses.push(ms);
    }
    assert.deepEqual(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    const second = new FakeConnection();
    await come(second);
    const done = ask(1);
    second.reply(1);
    await done;
    const before = attempts();
    second.lose();
    assert.equal(attempts(), before + 1);
    await come(new Error('refused'));
    t.mock.timers.tick(100);
    await turns();
    assert.equal(attempts(), before + 2);
  });

  it('does not wait for ever for a server that each time is lost before it answers', async (t) => {
    fakeTimers(t);
    const { first, come, ask, ended } = rig(5000);
    void ask(1);
    await turns();
    first.lose();
    for (let second = 0; second < 5; second++) {
      const next = new FakeConnection();
      await come(next);
      assert.deepEqual(next.asked, [1]);
      t.mock.timers.tick(1000);
      next.lose();
      await turns();
    }
    assert.deepEqual(ended, ['1 EIO']);
  });

  it('refuses a server that is not what it was, for good', async (t) => {
    fakeTimers(t);
    const { connection, first, come, ask, ended, attempts } = rig();
    void ask(1);
    await turns();
    first.lose();
    await turns();
    const smaller = new FakeConnection({ sizeBytes: 2048 });
    const lost: string[] = [];
    connection.onLost = ({ message }) => lost.push(message);
    await come(smaller);
    assert.equal(smaller.isAborted, true);
    assert.deepEqual(smaller.asked, []);
    await ask(2);
    assert.deepEqual(ended, ['1 EIO', '2 EIO']);
    const why = 'The NBD server came back as another one: the export has 2048 bytes, it had 4096';
    assert.deepEqual([connection.death?.message, lost], [why, [why]]);
    t.mock.timers.tick(100_000);
    assert.equal(attempts(), 1);
  });

  it('ends waiting at once when it is closed or broken off', async (t) => {
    fakeTimers(t);
    for (const end of ['close', 'abort', 'stopWaiting'] as const) {
      const { connection, first, ask, ended } = rig();
      void ask(1);
      await turns();
      first.lose();
      void ask(2);
      await turns();
      await connection[end]();
      await turns();
      assert.deepEqual(ended, ['1 ESHUTDOWN', '2 ESHUTDOWN']);
      await ask(3);
      assert.equal(ended.at(-1), '3 ESHUTDOWN');
    }
  });

  it('lets no more requests wait than it has room for', async (t) => {
    fakeTimers(t);
    const { connection, first, ask, ended } = rig();
    first.lose();
    for (let offset = 0; offset < 16_400; offset++) void ask(offset);
    await turns();
    assert.equal(ended.length, 0);
    await ask(16_400);
    assert.deepEqual(ended, ['16400 ENOMEM']);
    connection.abort();
    await turns();
    assert.equal(ended.length, 16_401);
  });

  it('knows what is worse', () => {
    const worse: [Partial<ClientAgreement>, RegExp | null][] = [
      [{}, null],
      [{ sizeBytes: 8192, description: 'x', structured: false, allocationId: 7 }, null],
      [{ flags: AGREEMENT.flags | 2 }, /read-only/],
      [{ flags: AGREEMENT.flags & ~4 }, /no FLUSH/],
      [{ flags: AGREEMENT.flags & ~8 }, /no FUA/],
      [{ flags: AGREEMENT.flags & ~64 }, /no WRITE_ZEROES/],
      [{ flags: AGREEMENT.flags & ~256 }, null],
      [{ allocationId: null }, /base:allocation/],
      [{ minBlockBytes: 512 }, /smallest block/],
      [{ maxBlockBytes: 65536 }, /largest request/],
    ];
    for (const [now, expected] of worse) {
      const told = whatIsWorse(AGREEMENT, { ...AGREEMENT, ...now });
      if (expected) assert.match(told ?? '', expected);
      else assert.equal(told, null);
    }
  });
});

describe('NBD client with a reconnect delay', () => {
  it('survives a server that is stopped and started again, reads and writes in flight', async (t) => {
    const { server, host, port } = await startServer(t);
    const source = new MemorySource(2 ** 20);
    const stuck = new Deferred<void>();
    source.before = () => {
      if (source.calls.length === 3) stuck.resolve();
      return new Promise(() => undefined);
    };
    server.addExport({ name: '', source, writable: true });
    const client = await NbdClient.connect({ host, port }, { reconnectDelayMs: 60_000 });
    t.after(() => client.abort());
    const target = Buffer.alloc(100_000);
    const work = [
      client.write(0, Buffer.alloc(100_000, 1)),
      client.write(100_000, Buffer.alloc(100_000, 2)),
      client.read(100_000, target),
    ];
    await stuck.promise;
    await server.close();
    const again = new NbdServer();
    t.after(() => again.close());
    const other = new MemorySource(2 ** 20);
    again.addExport({ name: '', source: other, writable: true });
    await again.listen({ host, port });
    await Promise.all(work);
    assert.deepEqual(other.calls, ['write 0 100000', 'write 100000 100000', 'read 100000 100000']);
    assert.equal(other.bytes[150_000], 2);
    await client.close();
  });

  it('is closed at once while the server is away, as a node too', async (t) => {
    const { server, host, port } = await startServer(t);
    const source = new MemorySource(8192);
    server.addExport({ name: '', source, writable: true });
    const options = { host, port: String(port), 'reconnect-delay': '3600' };
    const driver = await openNbd(new OptionReader(nestOptions(options)), {
      nodeName: 'test',
      openChild: () => Promise.reject(new Error('no children')),
      find: () => null,
      findLater: () => () => null,
      emit: () => undefined,
    });
    const node = new BlockNode('test', driver);
    await node.write(0, Buffer.alloc(512));
    await server.close();
    const waiting = node.write(0, Buffer.alloc(512));
    const failed = assert.rejects(waiting, { name: 'IoError' });
    await node.close();
    await failed;
  });
});
