/** `colo nbd serve` with QEMU's tools. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it, type TestContext } from 'node:test';
import { parseNbdListen } from '../../../src/cli/nbd.ts';
import { temporaryDirectory } from '../../unit/nbd/support.ts';
import { missing, mustRun, run } from './peers.ts';

const PROGRAM = ['--import', 'tsx', join(import.meta.dirname, 'nbd-main.ts'), 'nbd', 'serve'];

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
