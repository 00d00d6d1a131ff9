/** What the package exports is what docs/library.md says, under its own name, and the examples of that page are the files. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as compare from 'colo-ft/compare';
import * as nbd from 'colo-ft/nbd';
import * as qcow2 from 'colo-ft/qcow2';
import * as qmp from 'colo-ft/qmp';

const TOP = fileURLToPath(new URL('../../../', import.meta.url));
const read = (name: string): string => readFileSync(path.join(TOP, name), 'utf8');
const PAGE = read('docs/library.md');
const MODULES: Readonly<Record<string, object>> = { nbd, qcow2, qmp, compare };

/** The rows of the table under that heading, by what the first cell names. */
function namesIn(heading: string): string[] {
  const [, section = ''] = PAGE.split(`\n## ${heading}\n`);
  const [own = ''] = section.split('\n## ');
  return [...own.matchAll(/^\| `(\w+)/gm)].map((match) => match[1]!);
}

test('each module exports what its table has, and the errors of all', () => {
  const shared = namesIn('Errors');
  assert.ok(shared.includes('ColoError'));
  for (const [name, module] of Object.entries(MODULES)) {
    assert.deepEqual(
      Object.keys(module).sort(),
      [...new Set([...namesIn(`colo-ft/${name}`), ...shared])].sort(),
      name,
    );
  }
});

test('package.json exports these modules, their declarations, and nothing else', () => {
  const { exports } = JSON.parse(read('package.json')) as { exports: Record<string, unknown> };
  const expected = Object.keys(MODULES).map((name) => [
    `./${name}`,
    { types: `./dist/lib/${name}.d.ts`, default: `./dist/lib/${name}.js` },
  ]);
  assert.deepEqual(exports, Object.fromEntries([...expected, ['./package.json', './package.json']]));
});

test('an error of one module is one of the others', () => {
  assert.equal(new Set(Object.values(MODULES).map((module) => (module as typeof nbd).ColoError)).size, 1);
});

test('the examples on the page are the files in examples/', () => {
  const files = readdirSync(path.join(TOP, 'examples')).filter((name) => name.endsWith('.js'));
  assert.equal(files.length, 5);
  for (const name of files) {
    assert.ok(
      PAGE.includes(`\`\`\`js\n${read(`examples/${name}`)}\`\`\`\n`),
      `${name} differs from docs/library.md`,
    );
  }
  assert.equal(PAGE.split('```js\n').length - 1, files.length);
});

test('declarations refer to declarations, not to sources', () => {
  const dist = path.join(TOP, 'dist');
  const files = readdirSync(dist, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.d.ts'));
  assert.ok(files.length > 100);
  for (const name of files) {
    const text = readFileSync(path.join(dist, name), 'utf8');
    assert.doesNotMatch(text, /(?:from |import\(?\s?)['"]\.[^'"\n]*\.ts['"]/, name);
  }
});
