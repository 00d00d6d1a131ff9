/** What a daemon that runs for long does: certificates are renewed under it, and calls that take minutes are kept alive. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import { test } from 'node:test';
import { NodeUnreachableError } from '../../../src/api/errors.ts';
import { NodeClient } from '../../../src/api/http-client.ts';
import { ApiServer } from '../../../src/api/http-server.ts';
import { KEEP_ALIVE_MS } from '../../../src/api/stream.ts';
import { readTlsMaterial, type TlsMaterial } from '../../../src/api/tls.ts';
import { Deferred } from '../../../src/base/async.ts';
import { makeCertificates } from '../../helpers/certificates.ts';
import { falseNode, VM } from '../../helpers/false-node.ts';

const material = (dir: string, end: string): Promise<TlsMaterial> =>
  readTlsMaterial({
    ca: path.join(dir, 'ca-cert.pem'),
    cert: path.join(dir, `${end}-cert.pem`),
    key: path.join(dir, `${end}-key.pem`),
  });

test('renewed certificates count for the next connection, and the old ones no more', async (t) => {
  const certificates = await makeCertificates();
  t.after(() => certificates.remove());
  const { dir: before, foreign: after } = certificates;
  const tls = await material(before, 'server');
  const server = await ApiServer.listen({ host: '127.0.0.1', port: 0, tls }, { node: falseNode() });
  t.after(() => server.close());
  const old = new NodeClient(server.address, { tls: await material(before, 'client') });
  const renewed = new NodeClient(server.address, { tls: await material(after, 'client') });
  t.after(async () => {
    await old.close();
    await renewed.close();
  });
  assert.equal((await old.health()).host, 'alpha');
  await assert.rejects(renewed.health(), NodeUnreachableError);
  server.setTls(await material(after, 'server'));
  assert.equal((await renewed.health()).host, 'alpha');
  await assert.rejects(old.health(), NodeUnreachableError);
});

test('a call that takes long is told to be under way, then answered', async (t) => {
  const answer = new Deferred<typeof VM>();
  const server = await ApiServer.listen(
    { host: '127.0.0.1', port: 0 },
    { node: falseNode({ vm: () => answer.promise }) },
  );
  t.after(() => server.close());
  t.mock.timers.enable({ apis: ['setInterval'] });
  const [host, port] = server.address.split(':');
  const asking = http.get({ host, port, path: '/v1/vms/web1' });
  const information = once(asking, 'information') as Promise<[http.InformationEvent]>;
  // The call has to be there before its time can pass.
  let isTold = false;
  void information.then(() => (isTold = true));
  while (!isTold) {
    t.mock.timers.tick(KEEP_ALIVE_MS);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal((await information)[0].statusCode, 102);
  answer.resolve(VM);
  const [response] = (await once(asking, 'response')) as [http.IncomingMessage];
  assert.equal(response.statusCode, 200);
  response.resume();
  await once(response, 'close');
});
