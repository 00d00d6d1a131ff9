/**
 * Every fence of the documents has a way to be run or is said not to be, and what is written in it can be true: command
 * lines are those of our programs, QMP requests those of our monitor, files such as our readers take.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pageNames, readPage } from './markdown.ts';
import { isTyped, problemsOf } from './problems.ts';
import { requestsIn } from './qmp-lines.ts';

const pages = pageNames().map(readPage);

test('every fence, request and command line of the documents is one that could be', () => {
  assert.deepEqual(pages.flatMap(problemsOf).join('\n'), '');
  const fences = pages.flatMap((page) => page.fences);
  assert.ok(fences.filter(isTyped).length > 30, `${fences.filter(isTyped).length} fences are typed`);
  assert.ok(fences.flatMap(({ text }) => requestsIn(text)).length > 20);
});

test('what is not run is said with the reason', (t) => {
  for (const page of pages) {
    for (const { line, way } of page.fences) {
      if (way.kind === 'not-run') t.diagnostic(`${page.name}:${line}: not run: ${way.reason}`);
      if (way.kind === 'run-by') t.diagnostic(`${page.name}:${line}: run by ${way.file}`);
    }
  }
});
