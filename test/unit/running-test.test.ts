/** What scripts/test.js knows of a test whose process was killed: scripts/running-test.js in a process of its own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';

const ROOT = path.resolve(import.meta.dirname, '../..');
let folder = '';

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'colo-running-test-'));
  await writeFile(path.join(folder, 'package.json'), '{"type":"module"}');
  await symlink(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
});

after(() => rm(folder, { recursive: true }));

/** Runs a test file whose one interesting line is `last`; gives the notes that it leaves. */
async function notesAfter(name: string, last: string): Promise<string[]> {
  const file = path.join(folder, `${name}.test.ts`);
  const notes = path.join(folder, `${name}-notes`);
  await mkdir(notes);
  await writeFile(
    file,
    `import { describe, it } from 'node:test';
     import fc from 'fast-check';
     import { writeFileSync } from 'node:fs';
     it('passes', () => {});
     describe('suite', () => { it('last', async () => { ${last} }); });`,
  );
  const env: NodeJS.ProcessEnv = { ...process.env, COLO_RUNNING_TESTS: notes };
  delete env['NODE_TEST_CONTEXT'];
  const preload = path.join(ROOT, 'scripts/running-test.js');
  const child = spawn(process.execPath, ['--import', 'tsx', '--import', preload, file], {
    cwd: folder,
    env,
    stdio: 'ignore',
  });
  await once(child, 'exit');
  const names = await readdir(notes);
  return Promise.all(names.map((note) => readFile(path.join(notes, note), 'utf8')));
}

describe('the note of what is running', () => {
  it('names the test of a process that was killed, and the seed of its properties', async () => {
    const last = `
      fc.assert(fc.property(fc.nat(), () => {
        writeFileSync('seed', String(fc.readConfigureGlobal().seed));
        process.kill(process.pid, 'SIGKILL');
        for (;;);
      }));`;
    const [note = ''] = await notesAfter('killed', last);
    const seed = Number(await readFile(path.join(folder, 'seed'), 'utf8'));
    assert.deepEqual(JSON.parse(note), { file: 'killed.test.ts', tests: [{ name: 'suite > last', seed }] });
  });

  it('is gone when the process ends by itself, whether its tests pass or fail', async () => {
    assert.deepEqual(await notesAfter('passing', ''), []);
    assert.deepEqual(await notesAfter('failing', "throw new Error('made to fail');"), []);
    assert.deepEqual(await notesAfter('exiting', 'process.exit(3);'), []);
  });
});
