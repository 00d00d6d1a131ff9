/** The file arbiter's process: a file system that hangs costs a deadline, and never more than one process. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { ArbiterUnreachableError } from '../../../src/ha/arbiter/arbiter.ts';
import { FileArbiter } from '../../../src/ha/arbiter/file-arbiter.ts';

const next = (nonce: string) => ({ nonce, holder: null, members: ['a', 'b'], data: {} });

test('a call that hangs ends at its deadline, as may have happened; those behind it have not; then it works again', async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), 'arbiter-'));
  const patient = new FileArbiter(dir, { deadlineMs: 60_000 });
  t.after(async () => {
    await patient.close();
    await rm(dir, { recursive: true, force: true });
  });
  await patient.prepare();
  await patient.create('vm', next('n1'));
  const from = { epoch: 1, nonce: 'n1' };

  // A process that is stopped is one whose call does not come back.
  const hasty = new FileArbiter(dir, { deadlineMs: 4_000 });
  t.after(() => hasty.close());
  await hasty.identity();
  const { pid } = hasty;
  assert.ok(pid !== undefined);
  process.kill(pid, 'SIGSTOP');
  const outcomes = await Promise.allSettled([
    hasty.swap('vm', from, next('n2')),
    hasty.swap('vm', from, next('n3')),
    hasty.read('vm'),
  ]);
  const flags = outcomes.map((outcome) => {
    assert.ok(outcome.status === 'rejected' && outcome.reason instanceof ArbiterUnreachableError);
    return outcome.reason.mayHaveHappened;
  });
  assert.deepEqual(flags, [true, false, false]);

  // What waited was never carried out, and the process was killed.
  assert.equal((await patient.read('vm'))?.epoch, 1);
  for (;;) {
    const result = await hasty.swap('vm', from, next('n2')).catch((error: unknown) => {
      // Until the one that was killed has ended.
      assert.ok(error instanceof ArbiterUnreachableError);
      return null;
    });
    if (result === null) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      continue;
    }
    assert.equal(result.outcome, 'won');
    break;
  }
  assert.notEqual(hasty.pid, pid);
});
