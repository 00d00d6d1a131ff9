/** `colo nbd serve` with QEMU's tools. */
import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it, type TestContext } from 'node:test';
import { parseNbdListen } from '../../../src/cli/nbd.ts';
import { makeCertificates, type Certificates } from '../../helpers/certificates.ts';
import { temporaryDirectory } from '../../unit/nbd/support.ts';
import { missing, mustRun, run } from './peers.ts';

const PROGRAM = ['--import', 'tsx', join(import.meta.dirname, 'nbd-main.ts'), 'nbd', 'serve'];
const IMG = ['--import', 'tsx', join(import.meta.dirname, 'nbd-main.ts'), 'img'];

const noOpenssl =
  spawnSync('openssl', ['version'], { stdio: 'ignore' }).error === undefined
    ? false
    : 'not installed: openssl';
const img = (...args: string[]): ReturnType<typeof run> => run(process.execPath, ...IMG, ...args);

/** Starts the program and waits for its ready line. */
async function serve(
  t: TestContext,
  ...args: string[]
): Promise<{ child: ChildProcessWithoutNullStreams; ready: string; exited: Promise<unknown[]> }> {
  const child = spawn(process.execPath, [...PROGRAM, ...args]);
  const exited = once(child, 'exit');
  t.after(() => child.kill('SIGKILL'));
  const lines = createInterface({ input: child.stdout });
  const ended = exited.then(() => Promise.reject(new Error('the server ended before it was ready')));
  const [ready] = (await Promise.race([once(lines, 'line'), ended])) as [string];
  ended.catch(() => undefined);
  return { child, ready, exited };
}

describe('colo nbd serve', { skip: missing('qemu-img', 'qemu-io') }, () => {
  it('serves a qcow2 image as a disk, and ends cleanly on SIGTERM', async (t) => {
    const directory = await temporaryDirectory(t);
    const image = join(directory, 'image.qcow2');
    await mustRun('qemu-img', 'create', '-f', 'qcow2', image, '16M');
    const { child, ready, exited } = await serve(t, image, '--listen', 'tcp:127.0.0.1:0', '--export', 'disk');
    const address = /^nbd ready: listening at (\S+), export 'disk'$/.exec(ready)?.[1];
    assert.ok(address, ready);
    await mustRun('qemu-io', '-f', 'raw', '-c', 'write -P 9 1M 1M', '-c', 'flush', `nbd://${address}/disk`);
    child.kill('SIGTERM');
    assert.deepEqual(await exited, [0, null]);
    await mustRun('qemu-io', '-f', 'qcow2', '-c', 'read -P 9 1M 1M', '-c', 'read -P 0 2M 1M', image);
    assert.match(await mustRun('qemu-img', 'check', image), /No errors/);
  });

  it('serves read-only on a unix socket', async (t) => {
    const directory = await temporaryDirectory(t);
    const [image, path] = [join(directory, 'image'), join(directory, 'socket')];
    await writeFile(image, Buffer.alloc(65536, 5));
    await serve(t, image, '--listen', `unix:${path}`, '--read-only', '--format', 'raw');
    const uri = `nbd+unix:///?socket=${path}`;
    await mustRun('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 5 0 64k', uri);
    assert.equal((await run('qemu-io', '-f', 'raw', '-c', 'write 0 512', uri)).code, 1);
  });

  it('says in one line what is wrong', async () => {
    const { code, stderr } = await run(process.execPath, ...PROGRAM, '/nonexistent/image');
    assert.equal(code, 1);
    assert.match(stderr, /^colo nbd serve: .*\/nonexistent\/image.*\n$/);
  });
});

describe('colo nbd serve in TLS', { skip: noOpenssl }, () => {
  let certificates: Certificates;
  before(async () => {
    certificates = await makeCertificates();
  });
  after(() => certificates.remove());

  it('serves with certificates and with keys, to colo img too', async (t) => {
    const directory = await temporaryDirectory(t);
    const image = join(directory, 'image');
    await writeFile(image, Buffer.alloc(2 ** 20, 5));
    const tcp = ['--listen', 'tcp:127.0.0.1:0', '--format', 'raw', '--read-only'];
    const psk = join(certificates.psk, 'keys.psk');
    const servers = [
      [
        ['--tls-certificates', certificates.dir, '--tls-verify-peer', 'off'],
        `tls-certificates=${certificates.caOnly}`,
      ],
      [['--tls-psk', psk], `tls-psk-file=${psk}&tls-username=alice`],
    ] as const;
    await Promise.all(
      servers.map(async ([options, query]) => {
        const { ready, child, exited } = await serve(t, image, ...tcp, ...options);
        const address = /listening at (\S+),/.exec(ready)?.[1] ?? '';
        const [inTls, inClear] = await Promise.all([
          img('info', '--output=json', `nbds://${address}/?${query}`),
          img('info', `nbd://${address}/`),
        ]);
        assert.equal(inTls.code, 0, inTls.stderr);
        assert.equal((JSON.parse(inTls.stdout) as Record<string, unknown>)['virtual-size'], 2 ** 20);
        assert.equal(inClear.code, 1);
        assert.match(inClear.stderr, /TLS negotiation required/);
        child.kill('SIGTERM');
        await exited;
      }),
    );
  });

  it('refuses options that do not go together, and credentials that are not there', async () => {
    const cases: [string[], RegExp][] = [
      [['--tls-certificates', '/a', '--tls-psk', '/b'], /may not be used at the same time/],
      [['--tls-verify-peer', 'on'], /--tls-verify-peer needs --tls-certificates/],
      [['--tls-certificates', '/nonexistent'], /Unable to access credentials \/nonexistent\/ca-cert.pem/],
      [['--tls-psk', '/nonexistent'], /Unable to access credentials \/nonexistent: No such file/],
    ];
    await Promise.all(
      cases.map(async ([options, message]) => {
        const { code, stderr } = await run(process.execPath, ...PROGRAM, '/dev/null', ...options);
        assert.equal(code, 2);
        assert.match(stderr, message);
      }),
    );
  });

  it('warns when everybody could write the image', async (t) => {
    const directory = await temporaryDirectory(t);
    const image = join(directory, 'image');
    await writeFile(image, Buffer.alloc(512));
    for (const [host, warns] of [
      ['0.0.0.0', true],
      ['127.0.0.1', false],
    ] as const) {
      const { child, exited } = await serve(t, image, '--listen', `tcp:${host}:0`, '--format', 'raw');
      let stderr = '';
      child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
      child.kill('SIGTERM');
      await exited;
      assert.equal(/warning: 0\.0\.0\.0:\d+: no TLS/.test(stderr), warns, stderr);
    }
  });
});

describe('parseNbdListen', () => {
  it('takes both kinds of address and nothing else', () => {
    assert.deepEqual(parseNbdListen('tcp:127.0.0.1:10809'), { host: '127.0.0.1', port: 10809 });
    assert.deepEqual(parseNbdListen('tcp:[::1]:0'), { host: '::1', port: 0 });
    assert.deepEqual(parseNbdListen('unix:/run/x'), { path: '/run/x' });
    for (const wrong of ['', 'unix:', 'tcp:host', 'tcp:host:99999', '10809']) {
      assert.throws(() => parseNbdListen(wrong), /is no address/);
    }
  });
});
