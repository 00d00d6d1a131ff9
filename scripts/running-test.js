// Preloaded into every test file by scripts/test.js: keeps in a file which test is running, and which seed its
// properties have. A process that ends in order takes the file away, one that was killed leaves it. It is written before
// the test begins, as a test that hangs may hold up the event loop, and then nothing in its process can tell any more.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { isMainThread } from 'node:worker_threads';

const folder = process.env.COLO_RUNNING_TESTS;
const testFile = process.argv[1] ?? '';

/** Whether a test, or what it imports, uses fast-check. Loading it for nothing would slow down most files. */
function hasProperties(file, depth = 1) {
  // A text in a test may look like an import and lead nowhere.
  if (!existsSync(file)) return false;
  const text = readFileSync(file, 'utf8');
  if (text.includes("from 'fast-check'")) return true;
  const imported = depth > 0 ? [...text.matchAll(/ from '(\.[^']+)'/g)] : [];
  return imported.some(([, name]) => hasProperties(path.resolve(path.dirname(file), name), depth - 1));
}

if (folder && isMainThread && testFile.endsWith('.test.ts')) {
  const { afterEach, beforeEach } = await import('node:test');
  const fastCheck = hasProperties(testFile) ? (await import('fast-check')).default : null;
  const note = path.join(folder, String(process.pid));
  const running = new Map();
  const write = () => {
    const tests = [...running].map(([name, seed]) => ({ name, seed }));
    writeFileSync(note, JSON.stringify({ file: path.relative('', testFile), tests }));
  };
  write();
  beforeEach((test) => {
    const seed = Number(process.env.COLO_SEED ?? Math.floor(Math.random() * 2 ** 31));
    fastCheck?.configureGlobal({ ...fastCheck.readConfigureGlobal(), seed });
    running.set(test.fullName, fastCheck ? seed : null);
    write();
  });
  afterEach((test) => {
    running.delete(test.fullName);
    write();
  });
  process.on('exit', () => rmSync(note, { force: true }));
}
