/** The API's two ends together: every call arrives as it was made, and its answer and errors come back as they were. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { renameSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import {
  NodeUnreachableError,
  errorFromWire,
  errorToWire,
  WIRE_ERROR_CLASSES,
} from '../../../src/api/errors.ts';
import { NodeClient } from '../../../src/api/http-client.ts';
import { ApiServer, MAX_BODY_BYTES } from '../../../src/api/http-server.ts';
import type { NodeService, PeerService } from '../../../src/api/service.ts';
import { readTlsMaterial } from '../../../src/api/tls.ts';
import { Deferred } from '../../../src/base/async.ts';
import { ClosedError, ColoError, ParameterError, ProtocolError } from '../../../src/base/errors.ts';
import { BusyError, NoSuchVmError } from '../../../src/ha/errors.ts';
import { makeCertificates } from '../../helpers/certificates.ts';
import { eventOf, falseNode, HOST, SPEC, VM, type FalseNode } from '../../helpers/false-node.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'api-'));
});
after(() => rm(folder, { recursive: true, force: true }));

let sockets = 0;

/** A server on a unix socket and a client of it, closed with the test. */
async function pair(
  t: { after: (done: () => Promise<void>) => void },
  own: Partial<NodeService & PeerService> = {},
): Promise<{ node: FalseNode; client: NodeClient; server: ApiServer; path: string }> {
  const node = falseNode(own);
  const socketPath = path.join(folder, `${++sockets}.sock`);
  const server = await ApiServer.listen({ path: socketPath }, { node });
  const client = new NodeClient(server.address);
  t.after(async () => {
    await client.close();
    await server.close();
  });
  return { node, client, server, path: socketPath };
}

async function tcpPair(
  t: { after: (done: () => Promise<void>) => void },
  own: Partial<NodeService & PeerService> = {},
): Promise<{ node: FalseNode; client: NodeClient; server: ApiServer; port: number }> {
  const node = falseNode(own);
  const server = await ApiServer.listen({ host: '127.0.0.1', port: 0 }, { node, peer: node });
  const client = new NodeClient(server.address);
  t.after(async () => {
    await client.close();
    await server.close();
  });
  return { node, client, server, port: Number(server.address.split(':')[1]) };
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

test('every call of NodeService arrives as it was made, and its answer comes back', async (t) => {
  const { client, node } = await pair(t);
  assert.deepEqual(await client.health(), await falseNode().health());
  assert.deepEqual(await client.hosts(), [HOST]);
  assert.deepEqual(await client.vms(), [VM]);
  assert.deepEqual(await client.vm('web1'), VM);
  assert.deepEqual(await client.spec('web1'), SPEC);
  assert.deepEqual(await client.check(SPEC), await falseNode().check(SPEC));
  assert.deepEqual(await client.up(SPEC), VM);
  assert.deepEqual(await client.down('web1', { purge: true }), VM);
  assert.deepEqual(await client.checkpoint('web1'), VM);
  assert.deepEqual(await client.failover('web1'), VM);
  assert.deepEqual(await client.migrate('web1', 'beta'), VM);
  assert.deepEqual(await client.setPaused('web1', true), VM);
  assert.deepEqual(await client.setMaintenance('alpha', true, { drain: true }), HOST);
  assert.deepEqual(await client.qmp('web1', 'query-status'), { status: 'running' });
  assert.deepEqual(await client.qmp('web1', 'stop', { a: [1] }), { status: 'running' });
  assert.deepEqual(
    await collect(client.events({ follow: false })),
    await collect(falseNode().events({ follow: false })),
  );
  assert.deepEqual(await collect(client.logs('web1', { lines: 10, follow: false })), ['one', 'two']);
  assert.deepEqual(node.asked, [
    ['health'],
    ['hosts'],
    ['vms'],
    ['vm', 'web1'],
    ['spec', 'web1'],
    ['check', SPEC],
    ['up', SPEC],
    ['down', 'web1', { purge: true }],
    ['checkpoint', 'web1'],
    ['failover', 'web1'],
    ['migrate', 'web1', 'beta'],
    ['setPaused', 'web1', true],
    ['setMaintenance', 'alpha', true, { drain: true }],
    ['qmp', 'web1', 'query-status'],
    ['qmp', 'web1', 'stop', { a: [1] }],
  ]);
});

test('every call of PeerService arrives over TCP; a unix socket has none of them', async (t) => {
  const { client, node } = await tcpPair(t);
  const request = {
    version: 1,
    spec: SPEC,
    from: 'alpha',
    primaryHost: '10.0.0.1',
    nics: [{ id: 'nic0', mirrorPort: 1, comparePort: 2 }],
    sizes: [{ id: 'disk0', sizeBytes: 1024 }],
    bitmapSince: { epoch: 2, nonce: 'x' },
  } as const;
  assert.deepEqual(await client.copy('web1'), await falseNode().copy('web1'));
  assert.deepEqual(await client.join(request), await falseNode().join(request));
  await client.awaitCheckpoint('web1', { epoch: 3, nonce: 'y' });
  await client.takeOver('web1');
  await client.leave('web1', 'because');
  await client.purge('web1');
  assert.deepEqual(await client.facts(SPEC), await falseNode().facts(SPEC));
  assert.deepEqual(node.asked, [
    ['copy', 'web1'],
    ['join', request],
    ['awaitCheckpoint', 'web1', { epoch: 3, nonce: 'y' }],
    ['takeOver', 'web1'],
    ['leave', 'web1', 'because'],
    ['purge', 'web1'],
    ['facts', SPEC],
  ]);
  const local = await pair(t);
  await assert.rejects(local.client.copy('web1'), { name: 'ForbiddenError', message: /by TCP only/ });
  assert.deepEqual(local.node.asked, []);
});

test('what is sent comes back the same, whatever is in it', async (t) => {
  const seen: unknown[] = [];
  const { client } = await pair(t, {
    qmp: (...args) => {
      seen.push(args);
      return Promise.resolve(args[2]);
    },
  });
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,62}$/);
  const args = fc
    .dictionary(fc.string(), fc.jsonValue())
    .map((value) => JSON.stringify(value))
    // Refused, see below.
    .filter((text) => !text.includes('"__proto__"') && !text.includes('"constructor"'))
    .map((text) => JSON.parse(text) as Record<string, unknown>);
  await fc.assert(
    fc.asyncProperty(name, fc.string({ minLength: 1, maxLength: 256 }), args, async (vm, command, given) => {
      seen.length = 0;
      const back = await client.qmp(vm, command, given);
      assert.deepEqual(seen, [[vm, command, given]]);
      assert.deepEqual(back, given);
    }),
    { numRuns: 60 },
  );
});

test('an error comes back as what it was', async (t) => {
  let next: Error = new ColoError('?');
  const { client, path: socketPath } = await pair(t, { vm: () => Promise.reject(next) });
  for (const name of WIRE_ERROR_CLASSES) {
    next = errorFromWire({ class: name, message: `it is ${name}` });
    const Class = next.constructor as new () => ColoError;
    await assert.rejects(client.vm('web1'), (error) => {
      assert.ok(error instanceof Class && error.constructor === Class, name);
      assert.equal(error.message, `it is ${name}`);
      return true;
    });
  }
  next = new NoSuchVmError('web1');
  assert.equal((await raw(socketPath, 'GET', '/v1/vms/web1')).status, 404);
  next = new BusyError('a resync is under way');
  assert.deepEqual(await raw(socketPath, 'GET', '/v1/vms/web1'), {
    status: 409,
    body: { version: 1, error: { class: 'BusyError', message: 'a resync is under way' } },
  });
  // One that this end does not know.
  class NewerError extends ColoError {}
  next = new NewerError('something newer');
  await assert.rejects(client.vm('web1'), { constructor: ColoError, message: 'something newer' });
  // A fault of the daemon's is told as one.
  next = new TypeError('x is not a function');
  await assert.rejects(client.vm('web1'), { name: 'RemoteFaultError', message: 'x is not a function' });
  assert.equal(errorToWire(next).status, 500);
});

test('garbage is refused by the path of what is wrong, and reaches no service', async (t) => {
  const { node, path: socketPath } = await pair(t);
  const says = async (
    method: string,
    at: string,
    body: string,
    expected: RegExp,
    type?: string,
  ): Promise<void> => {
    const answer = await raw(socketPath, method, at, body, type);
    assert.equal(Math.floor(answer.status / 100), 4, `${method} ${at}: ${answer.status}`);
    const { error } = answer.body as { error: { message: string; class: string } };
    assert.match(error.message, expected);
  };
  await says('POST', '/v1/vms/web1/down', '{"purge":', /JSON/i);
  await says('POST', '/v1/vms/web1/down', '{"purge":"yes"}', /the request: purge: /);
  await says('POST', '/v1/vms/web1/down', '{"purgee":true}', /purgee/);
  await says('POST', '/v1/vms/web1/down', '[]', /the request: /);
  await says('POST', '/v1/vms/web1/down', '{"version":9}', /version/);
  await says('POST', '/v1/vms/web1/down', '{"__proto__":{"a":1}}', /JSON/);
  await says('POST', '/v1/vms/WEB/down', '{}', /the VM in the path/);
  await says('POST', '/v1/vms/..%2f..%2fetc/down', '{}', /the VM in the path/);
  await says('POST', '/v1/vms/web1/down', 'purge=1', /media type/i, 'application/x-www-form-urlencoded');
  await says('POST', '/v1/vms/web1/down', '{}', /media type/i, 'text/plain');
  await says('POST', '/v1/vms/web1/migrate', '{}', /host/);
  await says('PUT', '/v1/vms/web1', JSON.stringify({ spec: { ...SPEC, memoryMiB: 'much' } }), /memoryMiB/);
  await says('PUT', '/v1/vms/web2', JSON.stringify({ spec: SPEC }), /must be the same/);
  await says('PUT', '/v1/vms/web1', JSON.stringify({ spec: { ...SPEC, disks: [] } }), /disks/);
  await says('GET', '/v1/events?after=-1', '', /the query: after/);
  await says('GET', '/v1/vms/web1/logs?lines=99999999', '', /the query: lines/);
  await says('GET', '/v2/vms', '', /no such route/);
  await says('DELETE', '/v1/vms/web1', '', /no such route/);
  await says('GET', '/v1/vms/%', '', /./);
  await says('POST', '/v1/check', `{"x":"${'x'.repeat(MAX_BODY_BYTES)}"}`, /too large/i);
  assert.deepEqual(node.asked, []);
  // Without a body it is as with an empty one.
  assert.equal((await raw(socketPath, 'POST', '/v1/vms/web1/down')).status, 200);
});

test('bytes that are no HTTP end their own connection and nothing else', async (t) => {
  const { client, path: socketPath } = await pair(t);
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async (bytes) => {
      const socket = net.connect({ path: socketPath });
      socket.on('error', () => undefined).resume();
      socket.end(bytes);
      await once(socket, 'close');
    }),
    { numRuns: 40 },
  );
  assert.equal((await client.health()).isHealthy, true);
});

test('an answer that is not the API is refused', async (t) => {
  const answers = [
    ['200', '<html>'],
    ['200', '{}'],
    ['200', '{"version":1,"result":{"name":5}}'],
    ['500', '{"version":1,"error":"bad"}'],
    ['200', 'null'],
  ];
  const server = http.createServer((_request, response) => {
    const [status, body] = answers[0]!;
    response.writeHead(Number(status)).end(body);
  });
  server.listen(path.join(folder, 'foreign.sock'));
  await once(server, 'listening');
  const client = new NodeClient({ path: path.join(folder, 'foreign.sock') });
  t.after(async () => {
    await client.close();
    server.close();
  });
  for (; answers.length > 0; answers.shift()) {
    await assert.rejects(client.vm('web1'), (error) => error instanceof ProtocolError, answers[0]?.[1]);
  }
});

test('a long call ends for the daemon when the client goes away', async (t) => {
  const aborted = new Deferred<unknown>();
  const begun = new Deferred<void>();
  const { client } = await pair(t, {
    failover: (_name, call) => {
      begun.resolve();
      call?.signal?.addEventListener('abort', () => aborted.resolve(call.signal?.reason));
      return new Promise(() => undefined);
    },
  });
  const patience = new AbortController();
  const call = client.failover('web1', { signal: patience.signal });
  await begun.promise;
  patience.abort();
  await assert.rejects(call, (error) => error instanceof ClosedError);
  assert.match(String(await aborted.promise), /the client has gone away/);
});

test('closing the server ends what is under way', async (t) => {
  const begun = new Deferred<void>();
  const { client, server } = await pair(t, {
    migrate: async (_name, _host, call) => {
      begun.resolve();
      await new Promise((resolve) => call?.signal?.addEventListener('abort', resolve));
      throw new ClosedError('the daemon is being stopped');
    },
  });
  const call = client.migrate('web1', 'beta');
  call.catch(() => undefined);
  await begun.promise;
  await server.close();
  await assert.rejects(call, (error) => error instanceof ClosedError);
});

test('events are followed until the client has had enough', async (t) => {
  const ended = new Deferred<void>();
  let sequence = 0;
  const { client } = await pair(t, {
    events: async function* ({ follow, after: since, vm, signal }) {
      assert.deepEqual({ follow, since, vm }, { follow: true, since: 5, vm: 'web1' });
      try {
        for (;;) {
          yield eventOf(++sequence);
          if (sequence < 3) continue;
          await new Promise((_resolve, reject) =>
            signal?.addEventListener('abort', () => reject(new ClosedError('gone'))),
          );
        }
      } finally {
        ended.resolve();
      }
    },
  });
  const enough = new AbortController();
  const seen: number[] = [];
  for await (const event of client.events({ follow: true, after: 5, vm: 'web1', signal: enough.signal })) {
    seen.push(event.sequence);
    if (event.sequence === 3) enough.abort();
  }
  assert.deepEqual(seen, [1, 2, 3]);
  await ended.promise;
});

test('a reader that does not read makes the source wait', async (t) => {
  let made = 0;
  const { path: socketPath, client } = await pair(t, {
    // eslint-disable-next-line @typescript-eslint/require-await -- a source that is never at a loss
    events: async function* () {
      for (;;) yield eventOf(++made, { data: { padding: 'x'.repeat(10_000) } });
    },
  });
  const socket = net.connect({ path: socketPath });
  socket.write('GET /v1/events?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n');
  await once(socket, 'readable');
  // Other calls are answered meanwhile; when no more are made, the source waits.
  let before = -1;
  while (made !== before) {
    before = made;
    for (let call = 0; call < 5; call++) await client.health();
  }
  assert.ok(made * 10_000 < 8 * 1024 * 1024, `${made} events for a reader that reads nothing`);
  socket.destroy();
});

test('a stream that fails says so, at its beginning and in its middle', async (t) => {
  let isLate = false;
  const { client, path: socketPath } = await pair(t, {
    logs: async function* (name) {
      await Promise.resolve();
      if (isLate) yield 'first';
      throw new NoSuchVmError(name);
    },
  });
  await assert.rejects(
    collect(client.logs('web9', { lines: 1, follow: true })),
    (error) => error instanceof NoSuchVmError,
  );
  assert.equal((await raw(socketPath, 'GET', '/v1/vms/web9/logs')).status, 404);
  isLate = true;
  const seen: string[] = [];
  await assert.rejects(
    async () => {
      for await (const line of client.logs('web9', { lines: 1, follow: true })) seen.push(line);
    },
    (error) => error instanceof NoSuchVmError,
  );
  assert.deepEqual(seen, ['first']);
});

test('the console is a stream of bytes both ways', async (t) => {
  const guest = new PassThrough();
  const typed: Buffer[] = [];
  const { Duplex } = await import('node:stream');
  const serial = Duplex.from({
    readable: guest,
    writable: new PassThrough().on('data', (data: Buffer) => typed.push(data)),
  });
  const { client } = await pair(t, {
    console: (name) => (name === 'web1' ? Promise.resolve(serial) : Promise.reject(new NoSuchVmError(name))),
  });
  await assert.rejects(client.console('web2'), (error) => error instanceof NoSuchVmError);
  const console = await client.console('web1');
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
  guest.write(bytes);
  const [heard] = (await once(console, 'data')) as [Buffer];
  assert.deepEqual(heard, bytes);
  console.write(bytes);
  while (Buffer.concat(typed).length < 256) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(Buffer.concat(typed), bytes);
  guest.end();
  await once(console.resume(), 'end');
  console.destroy();
});

test("a console's guest end goes when the client goes", async (t) => {
  const serial = new PassThrough();
  const { client } = await pair(t, { console: () => Promise.resolve(serial) });
  const console = await client.console('web1');
  console.on('error', () => undefined);
  console.destroy();
  await once(serial, 'close');
});

test('the socket is its owner’s alone, whatever the umask, and a dead daemon’s is replaced', async (t) => {
  const old = process.umask(0);
  t.after(() => void process.umask(old));
  const socketPath = path.join(folder, 'mode.sock');
  const first = await ApiServer.listen({ path: socketPath }, { node: falseNode() });
  process.umask(old);
  assert.equal((await stat(socketPath)).mode & 0o777, 0o600);
  await assert.rejects(ApiServer.listen({ path: socketPath }, { node: falseNode() }), {
    name: 'BusyError',
    message: /another daemon listens there/,
  });
  await first.close();
  await assert.rejects(stat(socketPath), { code: 'ENOENT' });
  // What a daemon that was killed leaves.
  const listener = `require('net').createServer().listen(${JSON.stringify(socketPath)}, () => process.kill(process.pid, 'SIGKILL'))`;
  await once(spawn(process.execPath, ['-e', listener], { stdio: 'ignore' }), 'exit');
  assert.ok((await stat(socketPath)).isSocket());
  const second = await ApiServer.listen({ path: socketPath }, { node: falseNode() });
  const client = new NodeClient(second.address);
  assert.equal((await client.health()).host, 'alpha');
  await client.close();
  await second.close();
});

test('what is not a socket is not replaced', async () => {
  const file = path.join(folder, 'file.sock');
  await writeFile(file, 'precious');
  await assert.rejects(ApiServer.listen({ path: file }, { node: falseNode() }), { name: 'ParameterError' });
  assert.equal(await readFile(file, 'utf8'), 'precious');
});

test('nobody there is told as that, and what to do', async () => {
  const client = new NodeClient({ path: path.join(folder, 'nobody.sock') }, { isPatient: false });
  await assert.rejects(client.vms(), (error) => {
    assert.ok(error instanceof NodeUnreachableError);
    assert.match(error.message, /nobody\.sock.*no such socket.*colo node/);
    return true;
  });
  await client.close();
});

test('a daemon that comes back within the retries is reached', async (t) => {
  const socketPath = path.join(folder, 'late.sock');
  const elsewhere = path.join(folder, 'elsewhere.sock');
  const server = await ApiServer.listen({ path: elsewhere }, { node: falseNode() });
  t.after(() => server.close());
  const client = new NodeClient({ path: socketPath });
  const call = client.health();
  // Its first try has failed by then.
  setTimeout(() => renameSync(elsewhere, socketPath), 50);
  assert.equal((await call).host, 'alpha');
  await client.close();
});

test('web pages are turned away: a foreign Host, any Origin', async (t) => {
  const { port, client } = await tcpPair(t);
  assert.equal((await client.health()).host, 'alpha');
  const status = async (headers: Record<string, string>): Promise<number> => {
    const request = http.get({ host: '127.0.0.1', port, path: '/v1/vms', headers });
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    response.resume();
    return response.statusCode ?? 0;
  };
  assert.equal(await status({ host: `localhost:${port}` }), 200);
  assert.equal(await status({ host: `[::1]:${port}` }), 200);
  assert.equal(await status({ host: `evil.example:${port}` }), 403);
  assert.equal(await status({ origin: 'http://127.0.0.1' }), 403);
});

test('with TLS only clients with a certificate of the CA get in, and only the right server is believed', async (t) => {
  const certificates = await makeCertificates();
  t.after(() => certificates.remove());
  const at = (dir: string, end: string): { ca: string; cert: string; key: string } => ({
    ca: path.join(dir, 'ca-cert.pem'),
    cert: path.join(dir, `${end}-cert.pem`),
    key: path.join(dir, `${end}-key.pem`),
  });
  const node = falseNode({ console: () => Promise.resolve(new PassThrough()) });
  const serverTls = await readTlsMaterial(at(certificates.dir, 'server'));
  const server = await ApiServer.listen({ host: '127.0.0.1', port: 0, tls: serverTls }, { node, peer: node });
  t.after(() => server.close());
  const client = new NodeClient(server.address, {
    tls: await readTlsMaterial(at(certificates.dir, 'client')),
  });
  assert.equal((await client.copy('web1')).host, 'beta');
  const console = await client.console('web1');
  console.write('echo');
  assert.equal(String((await once(console, 'data'))[0]), 'echo');
  console.destroy();
  await client.close();
  const impostor = new NodeClient(server.address, {
    tls: await readTlsMaterial(at(certificates.impostor, 'client')),
  });
  await assert.rejects(impostor.health(), (error) => error instanceof ColoError);
  await impostor.close();
  const foreign = new NodeClient(server.address, {
    tls: await readTlsMaterial(at(certificates.foreign, 'client')),
  });
  await assert.rejects(foreign.health(), (error) => error instanceof NodeUnreachableError);
  await foreign.close();
  const clear = new NodeClient(server.address);
  await assert.rejects(clear.health(), (error) => error instanceof ColoError);
  await clear.close();
  // The certificate is for 127.0.0.1 and localhost.
  const port = server.address.split(':')[1]!;
  const elsewhere = new NodeClient(`127.0.0.2:${port}`, {
    tls: await readTlsMaterial(at(certificates.dir, 'client')),
  });
  await assert.rejects(elsewhere.health(), (error) => error instanceof NodeUnreachableError);
  await elsewhere.close();
  await assert.rejects(readTlsMaterial({ ...at(certificates.dir, 'server'), ca: '/nowhere.pem' }), {
    name: 'ParameterError',
    message: /^tls\.ca: \/nowhere\.pem/,
  });
  const mixed = { ...at(certificates.dir, 'server'), key: at(certificates.dir, 'client').key };
  await assert.rejects(readTlsMaterial(mixed), (error) => error instanceof ParameterError);
});

test('a call that was sent on is done here', async (t) => {
  const node = falseNode();
  const forwarded = falseNode();
  const socketPath = path.join(folder, 'forwarded.sock');
  const server = await ApiServer.listen({ path: socketPath }, { node, forwarded });
  t.after(() => server.close());
  const client = new NodeClient(server.address, { isForwarded: true });
  await client.vm('web1');
  assert.deepEqual([node.asked, forwarded.asked], [[], [['vm', 'web1']]]);
  await client.close();
});

async function raw(
  socketPath: string,
  method: string,
  at: string,
  body?: string,
  type = 'application/json',
): Promise<{ status: number; body: unknown }> {
  const headers = body === undefined || body === '' ? {} : { 'content-type': type };
  const request = http.request({ socketPath, method, path: at, headers, agent: false });
  request.on('error', () => undefined);
  request.end(body);
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode ?? 0, body: JSON.parse(text) };
}
