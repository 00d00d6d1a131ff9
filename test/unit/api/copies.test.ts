/** Consoles and screens of either copy, over the real API: which copy is asked for, where it is, and what an older node says. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough, type Duplex } from 'node:stream';
import { test } from 'node:test';
import { forwarding } from '../../../src/api/forward.ts';
import { NodeClient } from '../../../src/api/http-client.ts';
import { ApiServer } from '../../../src/api/http-server.ts';
import type { NodeService } from '../../../src/api/service.ts';
import { ColoError, ParameterError } from '../../../src/base/errors.ts';
import { falseNode } from '../../helpers/false-node.ts';

/** Answers each stream with what was asked for. */
function telling(host: string): Partial<NodeService> {
  const open =
    (what: string) =>
    (name: string, copy?: string): Promise<Duplex> => {
      const stream = new PassThrough();
      stream.write(`${what} of ${name}, ${copy ?? 'any copy'}, on ${host}\n`);
      return Promise.resolve(stream);
    };
  return { console: open('console'), screen: open('screen') };
}

async function said(stream: Duplex): Promise<string> {
  const [bytes] = (await once(stream, 'data')) as [Buffer];
  stream.destroy();
  return bytes.toString().trim();
}

const listen = { host: '127.0.0.1', port: 0 } as const;

test('a copy is asked for by name, and found where it is', async (t) => {
  const alpha = await ApiServer.listen(listen, { node: falseNode(telling('alpha')) });
  const beta = await ApiServer.listen(listen, { node: falseNode(telling('beta')) });
  const gamma = await ApiServer.listen(listen, {
    node: forwarding({
      local: falseNode(telling('gamma')),
      locate: (vm, copy) =>
        Promise.resolve(vm !== 'web1' ? null : copy === 'secondary' ? beta.address : alpha.address),
      clientAt: (address) => new NodeClient(address, { isForwarded: true }),
    }),
  });
  const client = new NodeClient(gamma.address);
  t.after(async () => {
    await client.close();
    for (const server of [alpha, beta, gamma]) await server.close();
  });
  assert.equal(await said(await client.console('web1')), 'console of web1, any copy, on alpha');
  // What every node understands, an older one, too.
  assert.equal(await said(await client.console('web1', 'primary')), 'console of web1, any copy, on alpha');
  assert.equal(await said(await client.console('web1', 'secondary')), 'console of web1, secondary, on beta');
  assert.equal(await said(await client.screen('web1')), 'screen of web1, any copy, on alpha');
  assert.equal(await said(await client.screen('web1', 'secondary')), 'screen of web1, secondary, on beta');
  assert.equal(
    await said(await client.console('other', 'secondary')),
    'console of other, secondary, on gamma',
  );
});

test('what is no copy, no route or no name of a VM is refused', async (t) => {
  const server = await ApiServer.listen(listen, { node: falseNode(telling('alpha')) });
  t.after(() => server.close());
  const [host, port] = server.address.split(':');
  const ask = async (path: string, upgrade = 'colo-console'): Promise<string> => {
    const asking = http.get({ host, port, path, headers: { connection: 'Upgrade', upgrade } });
    const [answer] = (await once(asking, 'response')) as [http.IncomingMessage];
    let text = '';
    for await (const chunk of answer.setEncoding('utf8') as AsyncIterable<string>) text += chunk;
    return `${answer.statusCode}: ${(JSON.parse(text) as { error: { message: string } }).error.message}`;
  };
  assert.match(await ask('/v1/vms/web1/console?copy=both'), /^400: the query: copy: /);
  assert.match(await ask('/v1/vms/web1/console?copy=secondary&x=1'), /^400: the query: /);
  assert.match(await ask('/v1/vms/web1/keyboard'), /^400: .*: there is nothing to upgrade$/);
  assert.match(await ask('/v1/vms/%ff/console'), /^400: the VM in the path/);
  assert.equal(await ask('/v1/vms/web1/screen'), '400: Upgrade: expected colo-screen');
});

test('a node that has no such route yet is told as one to be upgraded', async (t) => {
  // As the version before answered.
  const old = http.createServer().on('upgrade', (request, socket) => {
    const message = `${request.url ?? ''}: there is nothing to upgrade`;
    const body = JSON.stringify({ version: 1, error: { class: 'ParameterError', message } });
    socket.end(
      `HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
  });
  await once(old.listen(0, '127.0.0.1'), 'listening');
  const client = new NodeClient(`127.0.0.1:${(old.address() as AddressInfo).port}`);
  t.after(async () => {
    await client.close();
    old.close();
  });
  const isTold = (what: string) => (error: unknown) => {
    assert.ok(error instanceof ColoError && !(error instanceof ParameterError));
    assert.match(error.message, new RegExp(`of an earlier version, which has no ${what}: upgrade it$`));
    return true;
  };
  await assert.rejects(client.console('web1', 'secondary'), isTold('consoles of secondaries'));
  await assert.rejects(client.screen('web1'), isTold('screens'));
});
