/** The lock between processes. */
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { withLock } from '../../../src/guest/lock.ts';

const TAKER = join(import.meta.dirname, '../../helpers/lock-taker.ts');

describe('withLock', () => {
  let directory = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'colo-lock-'));
  });
  after(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  it('lets one in at a time and leaves nothing behind', async () => {
    const path = join(directory, 'a');
    let inside = 0;
    let most = 0;
    const body = async (): Promise<void> => {
      inside += 1;
      most = Math.max(most, inside);
      await sleep(20);
      inside -= 1;
    };
    await Promise.all([withLock(path, body), withLock(path, body), withLock(path, body)]);
    assert.equal(most, 1);
    await assert.rejects(stat(path));
  });

  it('lets one process in at a time, when all of them find the lock of one that is gone', async () => {
    const [path, said] = [join(directory, 'd'), join(directory, 'said')];
    await writeFile(path, String(2 ** 22 + 1));
    const takers = Array.from({ length: 3 }, () =>
      fork(TAKER, [path, said], { execArgv: ['--import', import.meta.resolve('tsx')] }),
    );
    await Promise.all(takers.map((taker) => once(taker, 'message')));
    const ended = Promise.all(takers.map((taker) => once(taker, 'exit')));
    for (const taker of takers) taker.send('go');
    await ended;
    assert.equal(await readFile(said, 'utf8'), 'in\nout\n'.repeat(3));
    assert.deepEqual((await readdir(directory)).sort(), ['said']);
  });

  it('is released when the body fails', async () => {
    const path = join(directory, 'b');
    await assert.rejects(
      withLock(path, () => Promise.reject(new Error('no'))),
      /^Error: no$/,
    );
    assert.equal(await withLock(path, () => Promise.resolve(1)), 1);
  });

  for (const [who, pid] of [
    ['a process that is gone', 2 ** 22 + 1],
    ['an earlier process with our own id', process.pid],
  ] as const) {
    it(`takes over the lock of ${who}`, async () => {
      const path = join(directory, `c-${pid}`);
      await writeFile(path, String(pid));
      assert.equal(await withLock(path, () => Promise.resolve('mine')), 'mine');
    });
  }
});
