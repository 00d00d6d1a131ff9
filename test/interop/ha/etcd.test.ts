/** The etcd arbiter and what happens to etcd: members killed and stopped, the majority gone, slow links, TLS, users. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ParameterError } from '../../../src/base/errors.ts';
import { ArbiterRecordError, ArbiterUnreachableError } from '../../../src/ha/arbiter/arbiter.ts';
import { EtcdArbiter } from '../../../src/ha/arbiter/etcd-arbiter.ts';
import { next, newName } from '../../conformance/arbiter.ts';
import { makeCertificates, type Certificates } from '../../helpers/certificates.ts';
import { EtcdCluster, noEtcd } from '../../helpers/etcd.ts';

const patient = { deadlineMs: 30_000, attemptMs: 1_000 };

function etcdctl(...args: string[]): void {
  const { status, stderr } = spawnSync('etcdctl', args, { env: { ...process.env, ETCDCTL_API: '3' } });
  assert.equal(status, 0, stderr.toString());
}
const noEtcdctl =
  noEtcd ||
  (spawnSync('etcdctl', ['version']).status === 0 ? false : 'etcdctl is not installed (etcd-client)');

describe('a cluster of three', { skip: noEtcd }, () => {
  let cluster: EtcdCluster;
  let arbiter: EtcdArbiter;
  before(async () => {
    cluster = await EtcdCluster.start(3);
    arbiter = new EtcdArbiter({ endpoints: cluster.endpoints, ...patient });
    await arbiter.identity();
  });
  after(async () => {
    await arbiter.close();
    await cluster.remove();
  });

  test('goes on when any one member is killed or stands still', async () => {
    const vm = newName();
    await arbiter.create(vm, next('0'));
    let epoch = 1;
    const swap = async (): Promise<void> => {
      const result = await arbiter.swap(vm, { epoch, nonce: String(epoch - 1) }, next(String(epoch)));
      assert.equal(result.outcome, 'won');
      epoch++;
    };
    for (let at = 0; at < 3; at++) {
      // Whoever leads is among them.
      cluster.signal(at, 'SIGSTOP');
      await swap();
      cluster.signal(at, 'SIGCONT');
      await swap();
    }
    await cluster.kill(0);
    await swap();
    cluster.restart(0);
    await swap();
  });

  test('without its majority is out of reach, then there again with the record that it had', async () => {
    const vm = newName();
    await arbiter.create(vm, next('n1'));
    const hasty = new EtcdArbiter({ endpoints: cluster.endpoints, deadlineMs: 500, attemptMs: 200 });
    await cluster.kill(0);
    await cluster.kill(1);
    await assert.rejects(hasty.read(vm), ArbiterUnreachableError);
    await assert.rejects(
      hasty.swap(vm, { epoch: 1, nonce: 'n1' }, next('n2')),
      (error) => error instanceof ArbiterUnreachableError && !error.mayHaveHappened,
    );
    cluster.restart(0);
    const swapped = await arbiter.swap(vm, { epoch: 1, nonce: 'n1' }, next('n3'));
    assert.equal(swapped.outcome, 'won');
    cluster.restart(1);
    await hasty.close();
  });

  test('a swap whose answer is lost may have happened, and is won when it is asked for again', async () => {
    const vm = newName();
    await arbiter.create(vm, next('n1'));
    // Lets the answer to the read pass, and none to the transaction.
    const proxy = await deafProxy(cluster.endpoints[2]!);
    const cut = new EtcdArbiter({ endpoints: [proxy.endpoint], deadlineMs: 3_000, attemptMs: 3_000 });
    const from = { epoch: 1, nonce: 'n1' };
    await assert.rejects(
      cut.swap(vm, from, next('n2')),
      (error) => error instanceof ArbiterUnreachableError && error.mayHaveHappened,
    );
    await cut.close();
    proxy.close();
    assert.equal((await arbiter.read(vm))?.nonce, 'n2');
    assert.equal((await arbiter.swap(vm, from, next('n2'))).outcome, 'won');
  });

  test('what is no record of ours is named, and nobody wins', { skip: noEtcdctl }, async () => {
    const [endpoint = ''] = cluster.endpoints.slice(2);
    for (const [value, text] of [
      ['{"version":2,"epoch":"many"}', /version 2, and this program knows version 1/],
      ['not json', /not a record/],
    ] as const) {
      etcdctl('--endpoints', endpoint, 'put', '/colo/vms/strange', value);
      await assert.rejects(arbiter.read('strange'), (error) => {
        assert.ok(error instanceof ArbiterRecordError);
        assert.match(error.message, text);
        return true;
      });
      await assert.rejects(arbiter.create('strange', next('n')), ArbiterRecordError);
    }
  });
});

test('nobody there: nothing has happened', async () => {
  const arbiter = new EtcdArbiter({ endpoints: ['http://127.0.0.1:1'], deadlineMs: 200 });
  await assert.rejects(
    arbiter.create(newName(), next('n')),
    (error) => error instanceof ArbiterUnreachableError && !error.mayHaveHappened,
  );
  await arbiter.close();
});

test('options that make no sense are refused', () => {
  const bad = [
    { endpoints: [] },
    { endpoints: ['localhost:2379'] },
    { endpoints: ['http://a:1', 'https://b:1'] },
    { endpoints: ['http://a:1'], user: 'u' },
    { endpoints: ['https://a:1'], cert: 'c' },
  ];
  for (const options of bad) assert.throws(() => new EtcdArbiter(options), ParameterError);
});

describe('with TLS', { skip: noEtcd }, () => {
  let certificates: Certificates;
  let cluster: EtcdCluster;
  before(async () => {
    certificates = await makeCertificates();
    const at = (file: string): string => path.join(certificates.dir, file);
    cluster = await EtcdCluster.start(1, {
      ca: at('ca-cert.pem'),
      ...makeGatewayCertificate(certificates.dir),
    });
  });
  after(async () => {
    await cluster.remove();
    await certificates.remove();
  });

  test('a client with a certificate of the CA is let in, and others are not', async () => {
    const pem = (dir: string, file: string): string => readFileSync(path.join(dir, file), 'utf8');
    const { endpoints } = cluster;
    const credentials = (dir: string) => ({
      ca: pem(dir, 'ca-cert.pem'),
      cert: pem(dir, 'client-cert.pem'),
      key: pem(dir, 'client-key.pem'),
    });
    const good = new EtcdArbiter({ endpoints, ...credentials(certificates.dir), ...patient });
    const vm = newName();
    assert.equal((await good.create(vm, next('n'))).outcome, 'won');
    await good.close();
    for (const dir of [certificates.foreign, certificates.impostor]) {
      const bad = new EtcdArbiter({ endpoints, ...credentials(dir), deadlineMs: 500 });
      await assert.rejects(bad.read(vm), ArbiterUnreachableError);
      await bad.close();
    }
  });
});

describe('with users', { skip: noEtcdctl }, () => {
  let cluster: EtcdCluster;
  before(async () => {
    cluster = await EtcdCluster.start(1);
    const [endpoint = ''] = cluster.endpoints;
    const admin = (...args: string[]): void => etcdctl('--endpoints', endpoint, ...args);
    admin('user', 'add', 'root:secret');
    admin('user', 'grant-role', 'root', 'root');
    admin('role', 'add', 'colo');
    admin('role', 'grant-permission', 'colo', '--prefix=true', 'readwrite', '/colo/');
    admin('user', 'add', 'colo:word');
    admin('user', 'grant-role', 'colo', 'colo');
    admin('auth', 'enable');
  });
  after(() => cluster.remove());

  test('the right password is enough for the prefix, and a token that has gone is had anew', async () => {
    const { endpoints } = cluster;
    const arbiter = new EtcdArbiter({ endpoints, user: 'colo', password: 'word', ...patient });
    const vm = newName();
    assert.equal((await arbiter.create(vm, next('n'))).outcome, 'won');
    // Simple tokens live in the process that gave them.
    await cluster.kill(0);
    cluster.restart(0);
    assert.equal((await arbiter.swap(vm, { epoch: 1, nonce: 'n' }, next('m'))).outcome, 'won');
    await arbiter.close();
  });

  test('the wrong one, none, and a prefix of others are refused at once', async () => {
    const { endpoints } = cluster;
    for (const options of [
      { user: 'colo', password: 'wrong' },
      {},
      { user: 'colo', password: 'word', prefix: '/others' },
    ]) {
      const arbiter = new EtcdArbiter({ endpoints, ...patient, ...options });
      await assert.rejects(arbiter.create(newName(), next('n')), (error) => {
        assert.ok(error instanceof ArbiterUnreachableError);
        assert.equal(error.mayHaveHappened, false);
        assert.match(error.message, /refuses/);
        return true;
      });
      await arbiter.close();
    }
  });
});

/** A server's that may be a client's too: etcd's gateway calls etcd with it. */
function makeGatewayCertificate(dir: string): { cert: string; key: string } {
  const openssl = (...args: string[]): void => {
    const { status, stderr } = spawnSync('openssl', args, { cwd: dir });
    assert.equal(status, 0, stderr.toString());
  };
  openssl(...'req -newkey rsa:2048 -nodes -keyout both-key.pem -out both.csr -subj /CN=etcd'.split(' '));
  writeFileSync(
    path.join(dir, 'both.ext'),
    'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n',
  );
  openssl(
    ...'x509 -req -in both.csr -CA ca-cert.pem -CAkey ca-key.pem -set_serial 9 -days 2'.split(' '),
    ...'-extfile both.ext -out both-cert.pem'.split(' '),
  );
  return { cert: path.join(dir, 'both-cert.pem'), key: path.join(dir, 'both-key.pem') };
}

/** Passes everything on, but no answer to a transaction. */
async function deafProxy(endpoint: string): Promise<{ endpoint: string; close(): void }> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((client) => {
    const peer = net.connect(Number(new URL(endpoint).port), '127.0.0.1');
    let isDeaf = false;
    for (const socket of [client, peer]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
    }
    client.on('data', (bytes) => {
      isDeaf ||= bytes.includes('/v3/kv/txn');
      peer.write(bytes);
    });
    peer.on('data', (bytes) => {
      if (!isDeaf) client.write(bytes);
    });
    client.on('close', () => peer.destroy());
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
