import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Deferred } from '../../../src/base/async.ts';
import {
  ClosedError,
  CommandNotFoundError,
  DeviceNotFoundError,
  TimeoutError,
} from '../../../src/base/errors.ts';
import { QmpClient, QmpCommandError } from '../../../src/qmp/client.ts';
import { QmpServer } from '../../../src/qmp/server.ts';
import { QmpSession, UNSENT_LIMIT_BYTES, UNSENT_PAUSE_BYTES } from '../../../src/qmp/session.ts';
import type { QmpSessionOptions, QmpTransport } from '../../../src/qmp/session.ts';

const VERSION = { qemu: { major: 7, minor: 2, micro: 22 }, package: 'test' };
const NEGOTIATE = '{"execute":"qmp_capabilities"}\n';

class MemoryTransport implements QmpTransport {
  unsentBytes = 0;
  reading = true;
  ended = false;
  destroyed = false;
  readonly lines: string[] = [];

  write(text: string): void {
    assert.ok(text.endsWith('\r\n'));
    this.lines.push(text.slice(0, -2));
  }

  setReading(on: boolean): void {
    this.reading = on;
  }

  end(): void {
    this.ended = true;
  }

  destroy(): void {
    this.destroyed = true;
  }
}

function session(options: Partial<QmpSessionOptions> = {}): {
  transport: MemoryTransport;
  session: QmpSession;
} {
  const transport = new MemoryTransport();
  const dispatch = (command: string, args: object): Promise<unknown> =>
    command === 'echo'
      ? Promise.resolve(args)
      : Promise.reject(new CommandNotFoundError(`The command ${command} has not been found`));
  const made = new QmpSession(transport, { version: VERSION, dispatch, ...options });
  made.start();
  return { transport, session: made };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Sends lines to a fresh session one at a time; the replies without the greeting. */
async function talk(lines: readonly string[], options: Partial<QmpSessionOptions> = {}): Promise<string[]> {
  const { transport, session: made } = session(options);
  for (const line of lines) {
    made.receive(Buffer.from(`${line}\n`));
    await settle();
  }
  return transport.lines.slice(1);
}

test('greeting, negotiation, id of any kind', async () => {
  const { transport } = session();
  assert.equal(
    transport.lines[0],
    '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "test"}, "capabilities": ["oob"]}}',
  );
  assert.deepEqual(
    await talk([
      '{"execute":"query-status"}',
      '[]',
      '{"execute":"qmp_capabilities","id":{"x":[1,"a"]}}',
      '{"execute":"qmp_capabilities"}',
      '{"execute":"echo","id":null,"arguments":{"a":"\u00e9"}}',
      '{"execute":"nope","id":18446744073709551615}',
    ]),
    [
      `{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}`,
      '{"error": {"class": "GenericError", "desc": "QMP input must be a JSON object"}}',
      '{"return": {}, "id": {"x": [1, "a"]}}',
      '{"error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}}',
      '{"return": {"a": "\\u00E9"}, "id": null}',
      '{"id": 18446744073709551615, "error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}}',
    ],
  );
});

test('a reply carries the class and text of the error, and the session goes on after a bug', async () => {
  const dispatch = (command: string): Promise<unknown> => {
    if (command === 'a') throw new DeviceNotFoundError("Device 'x' not found");
    return Promise.reject(new TypeError('bug'));
  };
  assert.deepEqual(await talk([NEGOTIATE, '{"execute":"a"}', '{"execute":"b"}', '%'], { dispatch }), [
    '{"return": {}}',
    `{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}`,
    '{"error": {"class": "GenericError", "desc": "bug"}}',
    `{"error": {"class": "GenericError", "desc": "JSON parse error, stray '%'"}}`,
  ]);
});

test('commands are answered in order; out-of-band ones overtake once they are enabled', async () => {
  const slow = new Deferred<unknown>();
  const order: string[] = [];
  const options: Partial<QmpSessionOptions> = {
    dispatch: (command, _args, { oob }) => {
      order.push(`${command}${oob ? '!' : ''}`);
      return command === 'slow' ? slow.promise : Promise.resolve(command);
    },
    supportsOob: (command) => (command === 'nope' ? null : command === 'fast'),
  };
  const { transport, session: made } = session(options);
  const send = async (line: string): Promise<void> => {
    made.receive(Buffer.from(line));
    await settle();
  };
  await send('{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}');
  await send('{"execute":"slow","id":1}{"execute":"after","id":2}%\n');
  await send('{"exec-oob":"fast","id":3}{"exec-oob":"after","id":4}{"exec-oob":"nope","id":5}');
  // Three at once: which of them is answered first is nobody's promise.
  assert.deepEqual(transport.lines.slice(2).sort().reverse(), [
    '{"return": "fast", "id": 3}',
    '{"id": 5, "error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}}',
    '{"id": 4, "error": {"class": "GenericError", "desc": "The command after does not support OOB"}}',
  ]);
  slow.resolve('done');
  await settle();
  assert.deepEqual(transport.lines.slice(5), [
    '{"return": "done", "id": 1}',
    '{"return": "after", "id": 2}',
    `{"error": {"class": "GenericError", "desc": "JSON parse error, stray '%'"}}`,
  ]);
  assert.deepEqual(order, ['slow', 'fast!', 'after']);
});

test('capabilities are checked', async () => {
  assert.deepEqual(
    await talk([
      '{"execute":"qmp_capabilities","arguments":{"enable":["foo"]}}',
      '{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}',
      '{"execute":"qmp_capabilities","arguments":{"enable":[1]}}',
      '{"execute":"qmp_capabilities","arguments":{"enable":["oob"],"x":1}}',
      '{"exec-oob":"qmp_capabilities"}',
    ]),
    [
      "Parameter 'enable[0]' does not accept value 'foo'",
      "Invalid parameter type for 'enable', expected: array",
      "Invalid parameter type for 'enable[0]', expected: string",
      "Parameter 'x' is unexpected",
      "QMP input member 'exec-oob' is unexpected",
    ].map((desc) => `{"error": {"class": "GenericError", "desc": "${desc}"}}`),
  );
});

test('reading stops while eight commands wait or the client does not read', async () => {
  const slow = new Deferred<unknown>();
  const { transport, session: made } = session({ dispatch: () => slow.promise });
  made.receive(Buffer.from(NEGOTIATE));
  await settle();
  made.receive(Buffer.from('{"execute":"x"}'.repeat(8)));
  await settle();
  assert.equal(transport.reading, true);
  made.receive(Buffer.from('{"execute":"x"}'));
  assert.equal(transport.reading, false);
  slow.resolve({});
  await settle();
  assert.equal(transport.reading, true);
  assert.equal(transport.lines.length, 2 + 9);
  transport.unsentBytes = UNSENT_PAUSE_BYTES;
  made.receive(Buffer.from('{"execute":"x"}'));
  assert.equal(transport.reading, false);
  transport.unsentBytes = 0;
  made.drained();
  assert.equal(transport.reading, true);
});

test('a client that reads no events is disconnected', async () => {
  const { transport, session: made } = session();
  made.sendEvent('{}\r\n');
  assert.equal(transport.lines.length, 1, 'an event before the negotiation');
  made.receive(Buffer.from(NEGOTIATE));
  await settle();
  made.sendEvent('{}\r\n');
  assert.equal(transport.lines.length, 3);
  transport.unsentBytes = UNSENT_LIMIT_BYTES + 1;
  made.sendEvent('{}\r\n');
  assert.equal(transport.destroyed, true);
  made.sendEvent('{}\r\n');
  assert.equal(transport.lines.length, 4);
});

async function startServer(
  t: TestContext,
  options: Partial<QmpSessionOptions> = {},
): Promise<{ server: QmpServer; file: string }> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-qmp-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const dispatch = (command: string, args: object): Promise<unknown> => {
    if (command === 'hang') return new Promise(() => undefined);
    if (command === 'fail') throw new DeviceNotFoundError('no such thing');
    return Promise.resolve(args);
  };
  const server = new QmpServer({ version: VERSION, dispatch, ...options });
  t.after(() => server.close());
  const file = path.join(folder, 'q.sock');
  await server.listen({ path: file });
  return { server, file };
}

test('client and server: commands, errors, events for all clients', async (t) => {
  const { server, file } = await startServer(t);
  const clients = [
    await QmpClient.connect({ path: file }),
    await QmpClient.connect({ path: file }, { oob: true }),
  ];
  t.after(() => clients.forEach((client) => client.close()));
  const [first] = clients;
  assert.deepEqual(first!.greeting.QMP.version, VERSION);
  const replies = await Promise.all([1, 2, 3].map((x) => first!.execute('echo', { x })));
  assert.equal(JSON.stringify(replies), '[{"x":1},{"x":2},{"x":3}]');
  await assert.rejects(first!.execute('fail'), (error) => {
    assert.ok(error instanceof QmpCommandError);
    assert.deepEqual(
      [error.class, error.desc, error.message],
      ['DeviceNotFound', 'no such thing', 'fail: no such thing'],
    );
    return true;
  });
  const seen = clients.map((client) => client.waitFor('COLO_EXIT', ({ data }) => data['n'] === 2));
  server.broadcast('STOP');
  server.broadcast('COLO_EXIT', { n: 1 });
  server.broadcast('COLO_EXIT', { n: 2 });
  for (const event of await Promise.all(seen)) {
    assert.deepEqual({ ...event.data }, { n: 2 });
    assert.ok(event.timestamp.seconds > 1_600_000_000);
  }
});

test('deadlines and lost connections end what waits', async (t) => {
  const { server, file } = await startServer(t);
  const client = await QmpClient.connect({ path: file });
  await assert.rejects(client.execute('hang', {}, { timeoutMs: 5 }), TimeoutError);
  await assert.rejects(
    client.waitFor('NEVER', () => true, 5),
    TimeoutError,
  );
  const hanging = assert.rejects(client.execute('hang'), ClosedError);
  const waiting = assert.rejects(client.waitFor('NEVER'), ClosedError);
  await server.close();
  await Promise.all([hanging, waiting]);
  assert.ok((await client.closed) instanceof ClosedError);
  await assert.rejects(client.execute('echo'), ClosedError);
  await assert.rejects(
    QmpClient.connect({ path: file }),
    /Failed to connect to '.*q\.sock': No such file or directory/,
  );
});

test('a client that has waited for many events keeps none of them', async (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const { server, file } = await startServer(t);
  const client = await QmpClient.connect({ path: file });
  t.after(() => client.close());
  const events: WeakRef<object>[] = [];
  for (let at = 0; at < 20; at++) {
    const came = client.waitFor('STOP').then((event) => events.push(new WeakRef(event)));
    server.broadcast('STOP');
    await came;
  }
  // What is under way in this turn may hold the last one.
  await new Promise((resolve) => setTimeout(resolve, 0));
  collect();
  assert.ok(events.filter((event) => event.deref() !== undefined).length <= 1);
});

test('a server that is no QMP server is given up', async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-qmp-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = path.join(folder, 'other.sock');
  const other = net.createServer((socket) => socket.end('SSH-2.0-x\n'));
  t.after(() => other.close());
  other.listen(file);
  await once(other, 'listening');
  await assert.rejects(QmpClient.connect({ path: file }), /does not speak QMP/);
});

test('a client that shuts down its side is still answered', async (t) => {
  const { server, file } = await startServer(t);
  const socket = net.connect({ path: file, allowHalfOpen: true });
  socket.end(`${NEGOTIATE}{"execute":"echo","id":7}`);
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
  await once(socket, 'close');
  assert.match(text, /\{"return": \{\}, "id": 7\}\r\n$/);
  assert.equal(server.sessionCount, 0);
});

test('the server waits for its first client, and its errors name the socket', async (t) => {
  const { server, file } = await startServer(t);
  await assert.rejects(server.waitConnected(AbortSignal.abort()), ClosedError);
  const waiting = server.waitConnected();
  const client = await QmpClient.connect({ path: file });
  await waiting;
  client.close();
  const bound = await server.listen({ host: '127.0.0.1', port: 0 });
  assert.ok('port' in bound && bound.port > 0);
  await assert.rejects(server.listen(bound), {
    message: 'Failed to find an available port: Address already in use',
  });
  await assert.rejects(server.listen({ path: path.dirname(file) }), /it is not a socket/);
  await assert.rejects(server.listen({ path: '/nonexistent/q.sock' }), {
    message: 'Failed to bind socket to /nonexistent/q.sock: No such file or directory',
  });
  const other = new QmpServer({ version: VERSION, dispatch: () => Promise.resolve({}) });
  t.after(() => other.close());
  await assert.rejects(
    other.dial({ path: `${file}.absent` }),
    /Failed to connect to .*No such file or directory/,
  );
});

test('standard streams are served like a socket and end with their input', async (t) => {
  const { server } = await startServer(t);
  const [input, output] = [new PassThrough(), new PassThrough()];
  server.serve(input, output);
  input.end(`${NEGOTIATE}{"execute":"echo","arguments":{"x":1}}`);
  const lines = (await output.toArray()).join('').split('\r\n');
  assert.equal(lines.at(-2), '{"return": {"x": 1}}');
});
