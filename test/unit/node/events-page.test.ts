/** docs/events.md has every event that the daemon tells, and no other. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { test } from 'node:test';

const NODE = new URL('../../../src/node/', import.meta.url);
const PAGE = new URL('../../../docs/events.md', import.meta.url);

test('docs/events.md has every event that the daemon tells, and no other', async () => {
  const told = new Set<string>();
  for (const file of await readdir(NODE)) {
    const text = await readFile(new URL(file, NODE), 'utf8');
    for (const [, type] of text.matchAll(/\btype: '([a-z-]+)',\s*(?:reason|\.\.\.after\.change|vm)/g))
      told.add(type ?? '');
  }
  const page = await readFile(PAGE, 'utf8');
  const written = [...page.matchAll(/^\| `([a-z-]+)` +\|/gm)]
    .map(([, type]) => type ?? '')
    .filter((type) => type !== 'type');
  assert.ok(told.size > 10);
  assert.deepEqual(written.sort(), [...told].sort());
});
