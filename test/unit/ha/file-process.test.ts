// The process that touches a directory which may hang; that it is ended when one does is in file-arbiter.test.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FileProcess } from '../../../src/ha/arbiter/file-process.ts';

test('a process that starts slowly is waited for: the deadline is of its answers', async (t) => {
  const module = new URL('../../helpers/slow-start-child.ts', import.meta.url).href;
  const slow = new FileProcess<{ verb: string }, unknown>(module, 'arbiter /x', 5_000);
  t.after(() => slow.close());
  const calls = [slow.call({ verb: 'one' }), slow.call({ verb: 'two' })];
  const { pid } = slow;
  assert.deepEqual(await Promise.all(calls), [{ answered: { verb: 'one' } }, { answered: { verb: 'two' } }]);
  assert.equal(slow.pid, pid);
});
