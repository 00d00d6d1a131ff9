/** docs/demo.md says what the program says. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { createProgram } from '../../../src/cli/program.ts';

const COMMON = new Set(['--verbose', '--no-color']);

test('docs/demo.md has every option of colo demo, and no other', async () => {
  const program = await createProgram('demo');
  const demo = program.commands.find((command) => command.name() === 'demo');
  // What every command has is in docs/cli.md.
  const has = demo?.options
    .map(({ long }) => long ?? '')
    .filter((long) => !COMMON.has(long))
    .sort();
  const page = await readFile(new URL('../../../docs/demo.md', import.meta.url), 'utf8');
  const told = [...page.matchAll(/^\| `(--[\w-]+)/gm)].map(([, name]) => name ?? '').sort();
  assert.deepEqual(told, has);
});
