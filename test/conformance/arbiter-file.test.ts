/** The arbiter contract on a directory. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { FileArbiter } from '../../src/ha/arbiter/file-arbiter.ts';
import { arbiterSuite } from './arbiter.ts';

arbiterSuite('file', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'arbiter-'));
  const maker = new FileArbiter(dir, { deadlineMs: 60_000 });
  await maker.prepare();
  await maker.close();
  return {
    open: () => new FileArbiter(dir, { deadlineMs: 60_000, watchMs: 50 }),
    remove: () => rm(dir, { recursive: true, force: true }),
  };
});
