/** An endpoint that does not answer as etcd does: every call ends, within its deadline, whatever is on the other side. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { describe, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { ArbiterUnreachableError } from '../../../src/ha/arbiter/arbiter.ts';
import { EtcdArbiter } from '../../../src/ha/arbiter/etcd-arbiter.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const HEAD = 'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n';

/** What a connection gets for its request. */
const STRANGERS: Record<string, (socket: net.Socket) => void> = {
  'says nothing': () => undefined,
  'stops in the header': (socket) => socket.write(HEAD),
  'stops in the answer': (socket) => socket.write(`${HEAD}content-length: 100\r\n\r\n{"kvs":`),
  'hangs up in the answer': (socket) => socket.end(`${HEAD}content-length: 100\r\n\r\n{"kvs":`),
  'breaks off': (socket) => socket.resetAndDestroy(),
  'talks without end': (socket) => {
    const talk = (): void => {
      while (socket.writable && socket.write('100000\r\n' + ' '.repeat(0x100000) + '\r\n'));
    };
    socket.on('drain', talk);
    socket.write(`${HEAD}transfer-encoding: chunked\r\n\r\n`);
    talk();
  },
  'speaks another language': (socket) => socket.end('220 mail.example ESMTP\r\n'),
  'is some other server': (socket) => socket.end(`${HEAD}content-length: 13\r\n\r\n{"kvs":"lots"}`),
};

async function stranger(answer: (socket: net.Socket) => void) {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('data', () => answer(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

describe('a call to somebody who', () => {
  for (const [what, answer] of Object.entries(STRANGERS)) {
    test(`${what} ends`, async () => {
      const { endpoint, close } = await stranger(answer);
      const arbiter = new EtcdArbiter({ endpoints: [endpoint], attemptMs: 150, deadlineMs: 300 });
      // What holds a deadline must not be collected while it is waited for.
      const collecting = setInterval(collect, 20);
      try {
        await assert.rejects(arbiter.read('vm'), ArbiterUnreachableError);
      } finally {
        clearInterval(collecting);
        await arbiter.close();
        close();
      }
    });
  }
});

const NOTHING_THERE = '{"kvs":[]}';
const answerNothing = (socket: net.Socket): void => {
  socket.end(`${HEAD}content-length: ${NOTHING_THERE.length}\r\n\r\n${NOTHING_THERE}`);
};

test('an etcd whose every answer comes later than an attempt lasts is heard in the end', async () => {
  const { endpoint, close } = await stranger((socket) => setTimeout(() => answerNothing(socket), 300));
  const arbiter = new EtcdArbiter({ endpoints: [endpoint], attemptMs: 50, deadlineMs: 20_000 });
  assert.equal(await arbiter.read('vm'), null);
  await arbiter.close();
  close();
});

test('whoever has become patient asks all endpoints nevertheless', async (t) => {
  // The first of them first.
  t.mock.method(Math, 'random', () => 0);
  let isBack = false;
  const mute = await stranger(() => undefined);
  const other = await stranger((socket) => {
    if (isBack) answerNothing(socket);
  });
  const endpoints = [mute.endpoint, other.endpoint];
  const arbiter = new EtcdArbiter({ endpoints, attemptMs: 20, deadlineMs: 300 });
  // By now one attempt may take as long as a call.
  for (let calls = 0; calls < 2; calls++) await assert.rejects(arbiter.read('vm'), ArbiterUnreachableError);
  isBack = true;
  // One call has time for one of them; the test's own time-out ends this.
  const ask = (): Promise<boolean> =>
    arbiter.read('vm').then(
      () => true,
      () => false,
    );
  while (!(await ask()));
  await arbiter.close();
  mute.close();
  other.close();
});

test('close ends what is under way, and nothing is asked after it', async () => {
  const { endpoint, close } = await stranger(() => undefined);
  const arbiter = new EtcdArbiter({ endpoints: [endpoint] });
  const reading = assert.rejects(arbiter.read('vm'), /closed/);
  await arbiter.close();
  await reading;
  await assert.rejects(arbiter.read('vm'), /closed/);
  close();
});

test('more calls than there is room for are refused, and have not happened', async () => {
  const { endpoint, close } = await stranger(() => undefined);
  const arbiter = new EtcdArbiter({ endpoints: [endpoint] });
  const calls = Array.from({ length: 1025 }, () => arbiter.read('vm').catch((error: unknown) => error));
  const last = await calls.at(-1);
  assert.ok(last instanceof ArbiterUnreachableError);
  assert.match(last.message, /too many/);
  await arbiter.close();
  await Promise.all(calls);
  close();
});
