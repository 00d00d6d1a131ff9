/** Every command of the documents, typed as a reader would: page by page, each at a machine of its own. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pageNames, readPage } from './markdown.ts';
import { runPage, whyNoSessions } from './session.ts';

const skip = whyNoSessions();
const only = process.env['COLO_PAGE'];

// What a page starts waits more than it works.
describe('the documents', { concurrency: 2 }, () => {
  for (const page of pageNames().map(readPage)) {
    const typed = page.fences.filter(
      ({ language, way }) => (language === 'sh' || language === 'console') && way.kind === 'run',
    );
    if (typed.length === 0 || (only !== undefined && !page.name.includes(only))) continue;
    test(`${page.name} does what it says`, { skip, timeout: 450_000 }, async () => {
      assert.ok((await runPage(page)) >= typed.length);
    });
  }
});
