/** NBD in TLS, both ways, with QEMU (GnuTLS), nbdkit and libnbd. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { copyFile, cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { inspect } from 'node:util';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import { NbdClient, NbdServer } from '../../../src/nbd/index.ts';
import { makeCertificates, makeRevocationList, type Certificates } from '../../helpers/certificates.ts';
import { MemorySource, temporaryDirectory } from '../../unit/nbd/support.ts';
import { missing, mustRun, run, startPeer } from './peers.ts';

const MIB = 2 ** 20;
const hasOpenssl = spawnSync('openssl', ['version'], { stdio: 'ignore' }).error === undefined;
const skip = (...tools: string[]): string | false =>
  hasOpenssl ? missing(...tools) : 'not installed: openssl';

let certificates: Certificates;
before(async () => {
  if (hasOpenssl) certificates = await makeCertificates();
});
after(() => (hasOpenssl ? certificates.remove() : undefined));

const x509 = (endpoint: string, dir = certificates.dir, more = {}): ReturnType<typeof createTlsCredentials> =>
  createTlsCredentials('tls-creds-x509', { endpoint, dir, ...more });
const psk = (endpoint: string, dir = certificates.psk, more = {}): ReturnType<typeof createTlsCredentials> =>
  createTlsCredentials('tls-creds-psk', { endpoint, dir, ...more });

interface Served {
  readonly source: MemorySource;
  readonly port: number;
  readonly path: string;
  readonly directory: string;
}

/** Our server with TLS, on TCP, with an export `disk`. */
async function serve(t: TestContext, tls: ReturnType<typeof x509>): Promise<Served> {
  const directory = await temporaryDirectory(t);
  const source = new MemorySource(8 * MIB);
  const server = new NbdServer({ tls });
  t.after(() => server.close());
  server.addExport({ name: 'disk', source, writable: true });
  const address = await server.listen({ host: '127.0.0.1', port: 0 });
  return { source, directory, path: '', port: 'port' in address ? address.port : 0 };
}

describe('certificates', { skip: skip() }, () => {
  const failure = (dir: string, endpoint = 'server', more = {}): string => {
    try {
      x509(endpoint, dir, more);
    } catch (error) {
      return (error as Error).message.replaceAll(dir, 'DIR');
    }
    return 'none';
  };

  it("are checked when they are loaded, and refused in QEMU's words", async (t) => {
    const copy = async (change: (dir: string) => Promise<void>): Promise<string> => {
      const dir = join(await temporaryDirectory(t), 'copy');
      await cp(certificates.dir, dir, { recursive: true });
      await change(dir);
      return dir;
    };
    const put = (from: string, file: string) => (dir: string) => copyFile(join(from, file), join(dir, file));
    const as = (from: string, to: string) => (dir: string) => copyFile(join(dir, from), join(dir, to));
    const text = (file: string, content: string) => (dir: string) => writeFile(join(dir, file), content);
    const without = (file: string) => (dir: string) => rm(join(dir, file));
    const cases: [(dir: string) => Promise<void>, string][] = [
      [
        without('server-key.pem'),
        'Unable to access credentials DIR/server-key.pem: No such file or directory',
      ],
      [
        put(certificates.foreign, 'ca-cert.pem'),
        "Our own certificate DIR/server-cert.pem failed validation against DIR/ca-cert.pem: The certificate hasn't got a known issuer",
      ],
      [
        as('server-cert.pem', 'ca-cert.pem'),
        'The certificate DIR/ca-cert.pem basic constraints do not show a CA',
      ],
      [
        as('ca-cert.pem', 'server-cert.pem'),
        'The certificate DIR/server-cert.pem basic constraints show a CA, but we need one for a server',
      ],
      [
        as('client-key.pem', 'server-key.pem'),
        "Cannot load certificate 'DIR/server-cert.pem' & key 'DIR/server-key.pem': The certificate and the given key do not match.",
      ],
      [text('ca-cert.pem', 'garbage'), 'Unable to import CA certificate list DIR/ca-cert.pem'],
      [
        text('server-cert.pem', 'garbage'),
        'Unable to import server certificate DIR/server-cert.pem: not a PEM certificate',
      ],
      [
        text('server-key.pem', 'garbage'),
        "Cannot load certificate 'DIR/server-cert.pem' & key 'DIR/server-key.pem': not usable PEM files",
      ],
    ];
    for (const [change, expected] of cases) assert.equal(failure(await copy(change)), expected);
    assert.equal(failure(certificates.caOnly, 'client'), 'none');
    // The keys' text is nowhere to be seen.
    const key = (await readFile(join(certificates.dir, 'server-key.pem'), 'utf8')).split('\n')[1] ?? '';
    assert.ok(key.length > 20 && !inspect(x509('server'), { depth: 9, showHidden: true }).includes(key));
  });

  it('are refused once the CA has revoked them', async (t) => {
    const connect = async (...revoked: string[]): Promise<string> => {
      const dir = join(await temporaryDirectory(t), 'copy');
      await cp(certificates.dir, dir, { recursive: true });
      await makeRevocationList(dir, ...revoked);
      const server = await serve(t, x509('server', dir));
      const address = { host: 'localhost', port: server.port };
      const tls = { credentials: x509('client', dir), hostname: 'localhost' };
      return NbdClient.connect(address, { exportName: 'disk', tls }).then(
        async (client) => {
          await client.close();
          return 'let in';
        },
        (error: unknown) => String(error),
      );
    };
    assert.equal(await connect(), 'let in');
    assert.equal(await connect('server-cert.pem'), 'NbdNegotiationError: The certificate has been revoked');
    assert.match(await connect('client-cert.pem'), /^NbdNegotiationError: /);
  });

  it('are refused before their time and after it', (t) => {
    const day = 86_400_000;
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 10 * day });
    assert.equal(failure(certificates.dir), 'The server certificate DIR/server-cert.pem has expired');
    t.mock.timers.setTime(day);
    assert.equal(failure(certificates.dir), 'The server certificate DIR/server-cert.pem is not yet active');
    assert.equal(failure(certificates.dir, 'server', { 'sanity-check': 'off' }), 'none');
  });
});

function qemuObject(type: string, dir: string, more = ''): string[] {
  return ['--object', `tls-creds-${type},id=tls0,dir=${dir},endpoint=client${more}`];
}
const qemuDisk = (port: number, more = ''): string[] => [
  '--image-opts',
  `driver=nbd,host=localhost,port=${port},export=disk,tls-creds=tls0${more}`,
];

describe('our NBD server in TLS with qemu-img and qemu-io', { skip: skip('qemu-img', 'qemu-io') }, () => {
  it('is written and read with certificates', async (t) => {
    const { source, port, directory } = await serve(t, x509('server'));
    const object = qemuObject('x509', certificates.dir);
    const image = join(directory, 'image.raw');
    const bytes = randomFillSync(Buffer.alloc(8 * MIB));
    await writeFile(image, bytes);
    const target = ['--target-image-opts', qemuDisk(port)[1]!];
    await mustRun('qemu-img', 'convert', ...object, '-n', '-f', 'raw', image, ...target);
    assert.ok(source.bytes.equals(bytes));
    const back = join(directory, 'back.raw');
    await mustRun('qemu-img', 'convert', ...object, '-O', 'raw', ...qemuDisk(port), back);
    assert.ok((await readFile(back)).equals(bytes));
  });

  it('is written and read with a pre-shared key, by the user who has it', async (t) => {
    const { source, port } = await serve(t, psk('server'));
    const commands = ['-c', 'write -P 7 1M 2M', '-c', 'read -P 7 1M 2M', '-c', 'flush'];
    const io = async (dir: string, more = ''): Promise<number> =>
      (await run('qemu-io', ...qemuObject('psk', dir, more), ...qemuDisk(port), ...commands)).code;
    assert.equal(await io(certificates.psk), 0);
    assert.equal(source.bytes[2 * MIB], 7);
    assert.equal(await io(certificates.psk, ',username=alice'), 0);
    assert.equal(await io(certificates.otherPsk), 1);
    // TLS 1.2 knows keys in another way.
    assert.equal(await io(certificates.psk, ',priority=NORMAL:-VERS-TLS1.3'), 0);
    assert.equal(await io(certificates.psk, ',priority=NORMAL:-VERS-ALL:+VERS-TLS1.1'), 1);
  });

  it('refuses whom it does not know, and whoever speaks in clear', async (t) => {
    const { port, source } = await serve(t, x509('server'));
    const info = async (...args: string[]): Promise<string> => {
      const { code, stderr } = await run('qemu-img', 'info', ...args);
      assert.equal(code, 1);
      return stderr;
    };
    await info(...qemuObject('x509', certificates.caOnly), ...qemuDisk(port));
    await info(...qemuObject('x509', certificates.impostor), ...qemuDisk(port));
    assert.match(
      await info(...qemuObject('x509', certificates.dir), ...qemuDisk(port, ',tls-hostname=elsewhere')),
      /Certificate does not match the hostname elsewhere/,
    );
    assert.match(
      await info(`nbd://localhost:${port}/disk`),
      /TLS negotiation required before option 7 \(go\)\nDid you forget a valid tls-creds\?\nserver reported: Option 0x7 not permitted before TLS/,
    );
    assert.deepEqual(source.calls, []);
  });

  it('lets anybody in with verify-peer=off', async (t) => {
    const { port } = await serve(t, x509('server', certificates.dir, { 'verify-peer': 'off' }));
    await mustRun('qemu-img', 'info', ...qemuObject('x509', certificates.caOnly), ...qemuDisk(port));
  });
});

describe('our NBD server in TLS with libnbd', { skip: skip('nbdinfo', 'nbdcopy') }, () => {
  it('is described and copied with certificates and with keys', async (t) => {
    const bytes = randomFillSync(Buffer.alloc(8 * MIB));
    const withX509 = await serve(t, x509('server'));
    await withX509.source.write(0, bytes);
    const uri = `nbds://localhost:${withX509.port}/disk?tls-certificates=${certificates.dir}`;
    assert.match(
      await mustRun('nbdinfo', uri),
      /protocol: newstyle-fixed with TLS, using structured packets/,
    );
    const copy = join(withX509.directory, 'copy.raw');
    await mustRun('nbdcopy', uri, copy);
    assert.ok((await readFile(copy)).equals(bytes));
    const withPsk = await serve(t, psk('server'));
    const file = join(certificates.psk, 'keys.psk');
    await mustRun('nbdcopy', copy, `nbds://alice@localhost:${withPsk.port}/disk?tls-psk-file=${file}`);
    assert.ok(withPsk.source.bytes.equals(bytes));
  });
});

/** Everything once, over whatever lies in between. */
async function exercise(client: NbdClient): Promise<void> {
  const bytes = randomFillSync(Buffer.alloc(3 * MIB));
  await Promise.all([
    client.write(MIB + 1, bytes, { fua: true }),
    client.write(5 * MIB, Buffer.alloc(100, 9)),
    client.writeZeroes(6 * MIB, 65536),
  ]);
  const back = Buffer.alloc(bytes.length);
  await client.read(MIB + 1, back);
  assert.ok(back.equals(bytes));
  await client.flush();
  assert.equal(client.hasStructuredReplies && client.hasBlockStatus, true);
  await client.close();
}

const refused = async (
  address: { path: string } | { host: string; port: number },
  tls: ReturnType<typeof x509>,
  hostname: string | null,
): Promise<string> => {
  const attempt = NbdClient.connect(address, { exportName: 'disk', tls: { credentials: tls, hostname } });
  return attempt.then(
    async (client) => {
      await client.close();
      throw new Error('it was let in');
    },
    (error: unknown) => String(error),
  );
};

describe('our NBD client in TLS with qemu-nbd', { skip: skip('qemu-nbd') }, () => {
  const start = async (t: TestContext, object: string): Promise<{ path: string }> => {
    const directory = await temporaryDirectory(t);
    const [image, path] = [join(directory, 'image'), join(directory, 'socket')];
    await writeFile(image, Buffer.alloc(8 * MIB));
    const tls = ['--object', `${object},id=tls0,endpoint=server`, '--tls-creds', 'tls0'];
    await startPeer(
      t,
      path,
      'qemu-nbd',
      ...tls,
      '-f',
      'raw',
      '-x',
      'disk',
      '-e',
      '9',
      '-t',
      '-k',
      path,
      image,
    );
    return { path };
  };

  it('works with certificates, and trusts nobody else', async (t) => {
    const address = await start(t, `tls-creds-x509,dir=${certificates.dir}`);
    const tls = { credentials: x509('client'), hostname: 'localhost' };
    await exercise(await NbdClient.connect(address, { exportName: 'disk', tls }));
    assert.equal(
      await refused(address, x509('client'), 'elsewhere'),
      'NbdNegotiationError: Certificate does not match the hostname elsewhere',
    );
    assert.equal(
      await refused(address, x509('client', certificates.foreign), 'localhost'),
      "NbdNegotiationError: The certificate hasn't got a known issuer",
    );
    assert.match(await refused(address, x509('client', certificates.caOnly), 'localhost'), /^Nbd/);
    assert.match(await refused(address, psk('client'), null), /^NbdNegotiationError/);
    await assert.rejects(NbdClient.connect(address, { exportName: 'disk' }), {
      name: 'NbdNegotiationError',
      message: /TLS negotiation required before option 8/,
    });
  });

  it('works with a pre-shared key, and does not without', async (t) => {
    const address = await start(t, `tls-creds-psk,dir=${certificates.psk}`);
    for (const username of ['qemu', 'alice']) {
      const credentials = psk('client', certificates.psk, { username });
      const tls = { credentials, hostname: null };
      await exercise(await NbdClient.connect(address, { exportName: 'disk', tls }));
    }
    assert.match(await refused(address, psk('client', certificates.otherPsk), null), /^NbdNegotiationError/);
  });

  it('does not go on in clear when the server has no TLS', async (t) => {
    const directory = await temporaryDirectory(t);
    const [image, path] = [join(directory, 'image'), join(directory, 'socket')];
    await writeFile(image, Buffer.alloc(4096));
    await startPeer(t, path, 'qemu-nbd', '-f', 'raw', '-x', 'disk', '-t', '-k', path, image);
    assert.equal(
      await refused({ path }, x509('client'), 'localhost'),
      'NbdNegotiationError: Denied by server for option 5 (starttls)\nserver reported: TLS not configured',
    );
  });
});

describe('our NBD client in TLS with nbdkit', { skip: skip('nbdkit') }, () => {
  const start = async (t: TestContext, ...args: string[]): Promise<string> => {
    const path = join(await temporaryDirectory(t), 'socket');
    await startPeer(t, path, 'nbdkit', '-f', '-U', path, '--tls=require', ...args, 'memory', '8M');
    return path;
  };

  it('works with certificates and with keys, by URI', async (t) => {
    const withX509 = await start(t, `--tls-certificates=${certificates.dir}`, '--tls-verify-peer');
    const withPsk = await start(t, `--tls-psk=${certificates.psk}/keys.psk`);
    const more = `tls-certificates=${certificates.dir}&tls-hostname=localhost`;
    for (const uri of [
      `nbds+unix:///?socket=${withX509}&${more}`,
      `nbds+unix:///?socket=${withPsk}&tls-psk-file=${certificates.psk}/keys.psk&tls-username=alice`,
    ]) {
      const graph = new BlockGraph();
      t.after(() => graph.closeAll());
      const node = await graph.openImage(uri, { format: 'raw' });
      await node.write(12_345, Buffer.from('in TLS'));
      await node.flush();
      const back = Buffer.alloc(6);
      await node.read(12_345, back);
      assert.equal(back.toString(), 'in TLS');
      await graph.closeImage(node);
    }
  });
});

describe('our NBD client in TLS with our server', { skip: skip() }, () => {
  it('works with certificates and with keys; 32 MiB at once, both ways', async (t) => {
    const server = await serve(t, psk('server'));
    const address = { host: 'localhost', port: server.port };
    const tls = { credentials: psk('client'), hostname: null };
    await exercise(await NbdClient.connect(address, { exportName: 'disk', tls }));
    const big = new MemorySource(80 * MIB);
    const other = new NbdServer({ tls: x509('server') });
    t.after(() => other.close());
    other.addExport({ name: '', source: big, writable: true });
    const listening = await other.listen({ host: '127.0.0.1', port: 0 });
    const client = await NbdClient.connect(listening, {
      tls: { credentials: x509('client'), hostname: '127.0.0.1' },
    });
    const bytes = randomFillSync(Buffer.alloc(64 * MIB));
    await client.write(5, bytes);
    const back = Buffer.alloc(bytes.length);
    await client.read(5, back);
    assert.ok(back.equals(bytes));
    await client.close();
    assert.ok(big.calls.includes(`write 5 ${32 * MIB}`));
    assert.ok(big.calls.includes(`read 5 ${32 * MIB}`));
  });
});
