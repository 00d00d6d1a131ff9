/** The checkpoint channel in TLS: a pair, and who does not become one. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { makeCertificates } from '../../helpers/certificates.ts';
import type { Certificates } from '../../helpers/certificates.ts';
import { Vm } from './migrating-vm.ts';

let certificates: Certificates;
before(async () => {
  certificates = await makeCertificates();
});
after(() => certificates.remove());

type Kind = 'tls-creds-x509' | 'tls-creds-psk';

async function secondary(kind: Kind, dir: string, uri = 'tcp:127.0.0.1:0'): Promise<{ vm: Vm; uri: string }> {
  const vm = new Vm('inmigrate');
  vm.tls.add('tls0', kind, { endpoint: 'server', dir });
  vm.migration.tls = { creds: 'tls0', hostname: '' };
  await vm.migration.listen(uri);
  const { incomingAddress: address } = vm.migration;
  assert.ok(address);
  return { vm, uri: typeof address === 'string' ? `unix:${address}` : `tcp:127.0.0.1:${address.port}` };
}

/** A primary that migrates. */
function primary(kind: Kind | null, dir: string, uri: string, hostname = ''): Vm {
  const vm = new Vm('running');
  vm.migration.setCapabilities([{ capability: 'x-colo', state: true }]);
  if (kind) {
    const checks = kind === 'tls-creds-x509' ? { 'sanity-check': 'off' } : {};
    vm.tls.add('tls0', kind, { endpoint: 'client', dir, ...checks });
    vm.migration.tls = { creds: 'tls0', hostname };
  }
  vm.migration.migrate(uri);
  return vm;
}

async function checkpointed(p: Vm, s: Vm): Promise<void> {
  await p.event('RESUME');
  await s.event('RESUME');
  p.migration.requestCheckpoint('request');
  while (p.migration.stats.count === 0) await new Promise((resolve) => setImmediate(resolve));
}

test('a pair checkpoints and beats in TLS, with certificates and with keys', async () => {
  for (const [kind, dir] of [
    ['tls-creds-x509', certificates.dir],
    ['tls-creds-psk', certificates.psk],
  ] as const) {
    const { vm: s, uri } = await secondary(kind, dir);
    const p = primary(kind, dir, uri);
    await checkpointed(p, s);
    assert.equal(p.migration.queryColoStatus()['x-heartbeat']?.['is-silent'], false);
    s.migration.close();
    await p.event('COLO_EXIT primary error');
    assert.match(p.ends.join(), /^(closed|reset): /);
    await p.migration.lostHeartbeat();
    assert.equal(p.status, 'completed');
  }
});

test('who is not known is turned away, told why, and the listener stays', async () => {
  const { vm: s, uri } = await secondary('tls-creds-x509', certificates.dir);
  const { port } = s.migration.incomingAddress as { port: number };
  // Says nothing.
  const mute = net.connect(port, '127.0.0.1');
  mute.on('error', () => undefined);
  await once(mute, 'connect');
  // In clear.
  const plain = primary(null, '', uri);
  await plain.event('MIGRATION failed');
  assert.equal(plain.run.state, 'running');
  // Of another CA.
  const foreign = primary('tls-creds-x509', certificates.foreign, uri);
  await foreign.event('MIGRATION failed');
  assert.equal(
    foreign.migration.errorText,
    `Failed to connect to '127.0.0.1:${port}': TLS handshake failed: The certificate hasn't got a known issuer`,
  );
  const impostor = primary('tls-creds-x509', certificates.impostor, uri);
  await impostor.event('MIGRATION failed');
  assert.match(
    impostor.migration.errorText ?? '',
    /if the destination refused this side's certificate, its log tells why/,
  );
  // Another name than the certificate's.
  const lost = primary('tls-creds-x509', certificates.dir, uri, 'elsewhere.example');
  await lost.event('MIGRATION failed');
  assert.match(lost.migration.errorText ?? '', /Certificate does not match the hostname elsewhere\.example/);
  assert.equal(s.status, 'setup');
  assert.equal(s.run.state, 'inmigrate');

  const p = primary('tls-creds-x509', certificates.dir, uri, 'localhost');
  await checkpointed(p, s);
  for (const vm of [p, s]) vm.migration.close();
  mute.destroy();
});

test('a listener in clear does not take TLS', async () => {
  const s = new Vm('inmigrate');
  await s.migration.listen('tcp:127.0.0.1:0');
  const { port } = s.migration.incomingAddress as { port: number };
  const p = primary('tls-creds-x509', certificates.dir, `tcp:127.0.0.1:${port}`);
  await p.event('MIGRATION failed');
  assert.match(p.migration.errorText ?? '', /TLS handshake failed: /);
  for (const vm of [p, s]) vm.migration.close();
});

test('what can be known before is refused before', async () => {
  const { vm: s } = await secondary('tls-creds-x509', certificates.dir);
  const p = new Vm('running');
  const migrate = (creds: string, uri: string, hostname = ''): (() => void) => {
    p.migration.tls = { creds, hostname };
    return () => p.migration.migrate(uri);
  };
  p.tls.add('srv', 'tls-creds-x509', { endpoint: 'server', dir: certificates.dir });
  p.tls.add('cli', 'tls-creds-x509', { endpoint: 'client', dir: certificates.dir });
  assert.throws(migrate('nope', 'tcp:127.0.0.1:1'), { message: "No TLS credentials with id 'nope'" });
  assert.throws(migrate('srv', 'tcp:127.0.0.1:1'), {
    message: 'Expected TLS credentials for a client endpoint',
  });
  assert.throws(migrate('cli', 'unix:/nowhere'), /No hostname for certificate validation; give tls-hostname/);
  assert.equal(p.status, undefined);
  migrate('cli', 'unix:/nowhere', 'localhost')();
  await p.event('MIGRATION failed');
  for (const vm of [p, s]) vm.migration.close();
});
