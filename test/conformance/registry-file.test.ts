/** The registry contract on a directory. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { FileArbiter } from '../../src/ha/arbiter/file-arbiter.ts';
import { FileRegistry } from '../../src/ha/registry/file-registry.ts';
import { registrySuite } from './registry.ts';

registrySuite('file', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'registry-'));
  const arbiter = new FileArbiter(dir, { deadlineMs: 60_000 });
  await arbiter.prepare();
  await arbiter.close();
  const options = { deadlineMs: 60_000, pollMs: 50, beatMs: 100, silentMs: 1_000, countersMs: 0 };
  return {
    open: () => new FileRegistry(dir, options),
    remove: () => rm(dir, { recursive: true, force: true }),
  };
});
