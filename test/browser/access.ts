/** Who can read and use the page: with a keyboard only, on a phone, in the dark, with a screen reader, with a token. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Page } from 'playwright-core';
import { BUNDLE } from '../helpers/browser.ts';
import { act, isProtected, noComplaints, open, waitForConsole } from './rig.ts';

/** Of everything that the page may ever load; the first paint needs less. */
const BUNDLE_LIMIT = 400_000;
const TOKEN = 'correct-horse-battery';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const WAYS = [
  ['light', 1280],
  ['dark', 1280],
  ['dark', 360],
] as const;

interface AxeResult {
  readonly violations: readonly {
    readonly id: string;
    readonly impact: string;
    readonly nodes: readonly { readonly target: readonly string[]; readonly failureSummary: string }[];
  }[];
}

/** Through the debugger, as the page itself takes no script that is not its own. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const result = await page.evaluate<AxeResult>('axe.run(document)');
  return result.violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .flatMap(({ id, nodes }) =>
      nodes.map((node) => `${id}: ${node.target.join(' ')}: ${node.failureSummary}`),
    );
}

/** Presses a key until what has the focus matches; fails when it never does. */
async function pressUntil(page: Page, key: string, selector: string): Promise<void> {
  for (let presses = 0; presses < 60; presses++) {
    await page.keyboard.press(key);
    if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
  }
  assert.fail(`${key} does not lead to ${selector}`);
}

export function accessTests(skip: string | false): void {
  test(
    'no serious or critical violation of accessibility, light and dark, wide and narrow',
    { skip },
    async (t) => {
      const { page, source } = await open(t);
      source.live();
      await isProtected(page);
      await page.waitForSelector('[data-arrow="mirror"].is-flowing', { state: 'attached' });
      const states: readonly (readonly [string, () => unknown])[] = [
        ['protected', () => undefined],
        ['the table of numbers', () => page.click('.numbers summary')],
        ['a dialog', () => page.click('[data-action="kill-primary"]')],
        [
          'killed',
          () => page.click('[data-confirm="kill-primary"]').then(() => page.waitForSelector('.answer.good')),
        ],
        ['syncing', () => source.resync(0.4)],
      ];
      let turn = 0;
      for (const [name, make] of states) {
        await make();
        if (name === 'syncing') await page.waitForSelector('progress');
        // All of it in every way once; afterwards what has changed, in one of them each.
        const ways = name === 'protected' ? WAYS : [WAYS[(turn += 1) % 2] ?? WAYS[0]];
        for (const [colorScheme, width] of ways) {
          await page.setViewportSize({ width, height: 900 });
          await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
          assert.deepEqual(await violations(page), [], `${name}, ${colorScheme}, ${width}`);
        }
      }
    },
  );

  test('everything can be done with the keyboard alone', { skip }, async (t) => {
    const { page, source, complaints } = await open(t);
    await waitForConsole(page, 'primary', 'web login:');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement?.className), 'skip');
    await page.keyboard.press('Enter');
    await pressUntil(page, 'Tab', '[data-action="kill-secondary"]');
    const outline = await page.evaluate(() => {
      const focused = document.activeElement;
      return focused === null ? '' : getComputedStyle(focused).outlineStyle;
    });
    assert.equal(outline, 'solid', 'the focus is seen');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    assert.equal(
      await page.evaluate(() => document.activeElement?.getAttribute('data-action')),
      'kill-secondary',
    );
    assert.deepEqual(source.acted, []);
    // Into the console, typing, and out of it again.
    await pressUntil(page, 'Tab', '[data-console="primary"] textarea');
    await page.keyboard.type('ls');
    await waitForConsole(page, 'primary', 'web login: ls');
    await page.keyboard.press('Control+Shift+ArrowDown');
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Clear');
    // Past the secondary's, which takes no Tab, to the table: another VM.
    await pressUntil(page, 'Tab', '[data-console="secondary"] textarea');
    await pressUntil(page, 'Tab', 'table .name[aria-pressed="false"]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.heading[data-vm="db"]');
    // Backwards, through the console that was there before.
    await pressUntil(page, 'Shift+Tab', '[data-console="primary"] textarea');
    await page.keyboard.press('Control+Shift+ArrowUp');
    await pressUntil(page, 'Shift+Tab', '.top select');
    await page.keyboard.press('ArrowUp');
    await page.waitForSelector('.heading[data-vm="web"]');
    await pressUntil(page, 'Tab', '[data-action="kill-secondary"]');
    await page.keyboard.press('Enter');
    await pressUntil(page, 'Tab', '[data-confirm="kill-secondary"]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.heading[data-state="unprotected"]');
    assert.deepEqual(source.acted, [{ vm: 'web', action: 'kill-secondary' }]);
    noComplaints(complaints);
  });

  test('a phone shows all of it without scrolling sideways, light and dark differ', { skip }, async (t) => {
    const context = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
    const { page, source, complaints } = await open(t, { context });
    source.live();
    await isProtected(page);
    await page.waitForSelector('svg.narrow');
    const width = (): Promise<number> => page.evaluate(() => document.documentElement.scrollWidth);
    assert.equal(await width(), 360);
    const ground = (): Promise<string> =>
      page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const light = await ground();
    await page.emulateMedia({ colorScheme: 'dark' });
    assert.notEqual(await ground(), light);
    await act(page, 'kill-primary');
    await page.waitForSelector('.heading[data-state="unprotected"]');
    source.resync(0.5);
    await page.waitForSelector('progress');
    assert.equal(await width(), 360);
    const animation = (): Promise<string> =>
      page.evaluate(
        () => getComputedStyle(document.querySelector('.arrival') ?? document.body).animationName,
      );
    assert.equal(await animation(), 'arrival');
    await page.emulateMedia({ reducedMotion: 'reduce' });
    assert.equal(await animation(), 'none');
    noComplaints(complaints);
  });

  test('a token: from the address, which forgets it, or from the form', { skip }, async (t) => {
    const { page, server, complaints } = await open(t, { listen: { token: TOKEN } });
    await page.waitForSelector('#token');
    assert.deepEqual(await violations(page), []);
    await page.fill('#token', 'no token at all');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() =>
      document.querySelector('#token-error')?.textContent.includes('no spaces'),
    );
    await page.fill('#token', 'wrong-wrong-wrong-wrong');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() =>
      document.querySelector('#token-error')?.textContent.includes('does not know this token'),
    );
    await page.fill('#token', TOKEN);
    await page.keyboard.press('Enter');
    await waitForConsole(page, 'primary', 'web login:');
    await page.reload();
    await isProtected(page);
    await page.evaluate(() => sessionStorage.clear());
    await page.goto('about:blank');
    await page.goto(`${server.url}#token=${TOKEN}`);
    await isProtected(page);
    assert.equal(page.url(), server.url);
    noComplaints(complaints);
  });

  test(
    'who may only watch gets no buttons, no screen, and a console that takes nothing',
    { skip },
    async (t) => {
      const { page, source, complaints } = await open(t, { listen: { mayAct: false } });
      await waitForConsole(page, 'primary', 'web login:');
      assert.equal(await page.locator('[data-action]').count(), 0);
      assert.equal(await page.locator('[role="tab"]').count(), 0);
      await page.click('[data-console="primary"] .xterm-screen');
      await page.keyboard.type('reboot');
      await pressUntil(page, 'Tab', 'table .name');
      assert.equal(source.typed.primary, '');
      noComplaints(complaints);
    },
  );

  test('scripts that are not the server’s own do not run', { skip }, async (t) => {
    const { page, complaints } = await open(t);
    await isProtected(page);
    const policy = (await (await fetch(page.url())).text()).match(/<script(?![^>]*src=)/);
    assert.equal(policy, null, 'index.html has no script within');
    noComplaints(complaints);
    const ran = await page.evaluate(() => {
      const script = document.createElement('script');
      script.textContent = 'window.ran = true';
      document.head.append(script);
      return 'ran' in window;
    });
    assert.equal(ran, false);
  });

  test('all of it is small', (t) => {
    const sizes = readdirSync(BUNDLE)
      .filter((name) => /\.(?:html|js|css|svg)$/.test(name))
      .map((name) => ({ name, size: gzipSync(readFileSync(path.join(BUNDLE, name)), { level: 9 }).length }));
    const all = sizes.reduce((sum, { size }) => sum + size, 0);
    t.diagnostic(`${all} bytes gzipped: ${sizes.map(({ name, size }) => `${name} ${size}`).join(', ')}`);
    assert.ok(sizes.some(({ name }) => name === 'app.js'));
    assert.ok(all <= BUNDLE_LIMIT, `${all} bytes`);
  });
}
