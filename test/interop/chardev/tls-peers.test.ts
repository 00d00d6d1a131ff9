// Our socket chardev in TLS with QEMU's own (a human monitor on it) and with openssl. QEMU 7.2's monitors read a byte of
// each TLS record and forget the rest, so it is typed to.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import type { TestContext } from 'node:test';
import type { TlsEndpoint } from '../../../src/base/tls/credentials.ts';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import { freePorts } from '../../../src/demo/free-ports.ts';
import { makeCertificates } from '../../helpers/certificates.ts';
import type { Certificates } from '../../helpers/certificates.ts';
import { RecordingFrontend, portOf, socketConfig } from '../../unit/chardev/support.ts';

const version = spawnSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).stdout as string | null;
const noQemu = version === null ? 'qemu-system-x86_64 is not installed' : false;
const reconnect = version?.includes('version 7.') ? 'reconnect=1' : 'reconnect-ms=100';

let certificates: Certificates;
before(async () => {
  certificates = await makeCertificates();
});
after(() => certificates.remove());

function startQemu(t: TestContext, object: string, chardev: string): void {
  const words = [
    '-machine',
    'none',
    '-display',
    'none',
    '-nodefaults',
    '-object',
    object,
    '-chardev',
    chardev,
  ];
  const child = spawn('qemu-system-x86_64', [...words, '-mon', 'chardev=q,mode=readline'], {
    stdio: 'ignore',
  });
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
}

async function ours(
  t: TestContext,
  end: TlsEndpoint,
  port: number,
  kind = 'tls-creds-x509',
): Promise<SocketChardev> {
  const dir = kind === 'tls-creds-x509' ? certificates.dir : certificates.psk;
  const isServer = end === 'server';
  const address = { type: 'inet', host: '127.0.0.1', port: String(port) } as const;
  const config = socketConfig({ server: isServer, address, reconnectMs: isServer ? 0 : 20 });
  const chardev = new SocketChardev(config, createTlsCredentials(kind, { endpoint: end, dir }));
  t.after(() => chardev.close());
  await chardev.open();
  return chardev;
}

/** It greets, is spoken to, and answers. */
async function converse(chardev: SocketChardev): Promise<void> {
  const frontend = new RecordingFrontend();
  const text = (): string => frontend.received.toString();
  chardev.attach(frontend, 'test');
  await frontend.until(() => text().endsWith('(qemu) '));
  for (const key of 'info kvm\r') {
    const before = frontend.received.length;
    assert.equal(chardev.write(Buffer.from(key)), true);
    await frontend.until(() => frontend.received.length > before);
  }
  await frontend.until(() => /kvm support: .*\r\n\(qemu\) $/.test(text()));
  assert.equal(chardev.bytesIn, frontend.received.length);
}

for (const kind of ['tls-creds-x509', 'tls-creds-psk']) {
  const object = (end: TlsEndpoint): string =>
    `${kind},id=t,endpoint=${end},dir=${kind === 'tls-creds-x509' ? certificates.dir : certificates.psk}`;

  test(`our client talks to a server chardev of QEMU, ${kind}`, { skip: noQemu }, async (t) => {
    const [port] = (await freePorts(1, ['127.0.0.1'])) as [number];
    startQemu(t, object('server'), `socket,id=q,host=127.0.0.1,port=${port},server=on,wait=off,tls-creds=t`);
    await converse(await ours(t, 'client', port, kind));
  });

  test(
    `our server is found by a client chardev of QEMU that reconnects, ${kind}`,
    { skip: noQemu },
    async (t) => {
      const server = await ours(t, 'server', 0, kind);
      startQemu(
        t,
        object('client'),
        `socket,id=q,host=127.0.0.1,port=${portOf(server)},tls-creds=t,${reconnect}`,
      );
      await converse(server);
    },
  );
}

test('openssl shakes hands with our server, and one without a certificate does not', async (t) => {
  const server = await ours(t, 'server', 0);
  const frontend = new RecordingFrontend();
  server.attach(frontend, 'test');
  const { dir } = certificates;
  const connect = ['s_client', '-connect', `127.0.0.1:${portOf(server)}`, '-CAfile', `${dir}/ca-cert.pem`];
  const quiet = ['-quiet', '-verify_return_error', '-no_ign_eof'];
  const nobody = spawn('openssl', [...connect, ...quiet], { stdio: ['pipe', 'ignore', 'ignore'] });
  nobody.stdin.on('error', () => undefined);
  await once(nobody, 'exit');
  assert.deepEqual(frontend.calls, []);
  const own = ['-cert', `${dir}/client-cert.pem`, '-key', `${dir}/client-key.pem`];
  const client = spawn('openssl', [...connect, ...own, ...quiet], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.after(() => client.kill('SIGKILL'));
  client.stdin.write('from openssl\n');
  await frontend.until(() => frontend.received.length === 13);
  assert.equal(frontend.received.toString(), 'from openssl\n');
  server.write(Buffer.from('to openssl\n'));
  const [said] = (await once(client.stdout, 'data')) as [Buffer];
  assert.equal(said.toString(), 'to openssl\n');
});
