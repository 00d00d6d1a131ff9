/** What the page shows of a pair that lives, dies and comes back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { falseVnc } from '../helpers/false-vnc.ts';
import { serve } from '../helpers/browser.ts';
import { act, isProtected, noComplaints, open, waitForConsole } from './rig.ts';

export function lifeTests(skip: string | false): void {
  test('the page loads and shows the pair, with nothing to complain of', { skip }, async (t) => {
    const { page, complaints, source } = await open(t);
    source.live();
    await isProtected(page);
    await page.waitForFunction(() => document.title === 'web: Protected, COLO');
    await page.waitForSelector('[data-copy="primary"][data-mood="running"]');
    await page.waitForSelector('[data-copy="secondary"][data-mood="following"]');
    for (const arrow of ['mirror', 'released', 'secondary-out', 'replication']) {
      await page.waitForSelector(`[data-arrow="${arrow}"].is-flowing .arrow-line`, { state: 'attached' });
    }
    await page.waitForSelector('[data-console="secondary"][data-status="open"]');
    assert.equal(await page.locator('.events li').count(), 1);
    assert.equal(await page.locator('figure canvas').count(), 5);
    const paint = await page.evaluate(
      () => performance.getEntriesByName('first-contentful-paint')[0]?.startTime,
    );
    assert.ok(paint !== undefined);
    t.diagnostic(`first contentful paint after ${Math.round(paint)} ms`);
    noComplaints(complaints);
  });

  test('consoles echo what is typed; the secondary takes nothing', { skip }, async (t) => {
    const { page, complaints, source } = await open(t);
    await waitForConsole(page, 'primary', 'web login:');
    await page.click('[data-console="primary"] .xterm-screen');
    await page.keyboard.type('uname -a');
    await waitForConsole(page, 'primary', 'web login: uname -a');
    await waitForConsole(page, 'secondary', 'web login:');
    await page.click('[data-console="secondary"] .xterm-screen');
    await page.keyboard.type('reboot');
    await page.click('[data-console="primary"] .xterm-screen');
    await page.keyboard.type('!');
    await waitForConsole(page, 'primary', 'uname -a!');
    assert.deepEqual(source.typed, { primary: 'uname -a!', secondary: '' });
    noComplaints(complaints);
  });

  test('the charts move after a checkpoint that is asked for in the page', { skip }, async (t) => {
    const { page, complaints, source } = await open(t);
    const points = (chart: string): Promise<number> =>
      page.locator(`[data-chart="${chart}"]`).getAttribute('data-points').then(Number);
    await page.waitForSelector('[data-chart="pause"]:not([data-points="0"])');
    const before = await points('pause');
    await act(page, 'checkpoint');
    await page.waitForSelector('.answer.good');
    await page.waitForFunction(
      (known) =>
        Number(document.querySelector<HTMLElement>('[data-chart="pause"]')?.dataset['points']) > known,
      before,
    );
    assert.equal(await page.locator('[data-chart="causes"] .chart-now').textContent(), 'asked for');
    const last = await page.locator('[data-chart="pages"] .chart-now').textContent();
    source.checkpoint('mismatch');
    await page.waitForFunction(
      (old) => document.querySelector('[data-chart="pages"] .chart-now')?.textContent !== old,
      last,
    );
    assert.deepEqual(source.acted, [{ vm: 'web', action: 'checkpoint' }]);
    noComplaints(complaints);
  });

  test('kill primary: the picture is another soon after, and the console goes on', { skip }, async (t) => {
    const { page, complaints } = await open(t);
    await isProtected(page);
    await waitForConsole(page, 'primary', 'web login:');
    await page.click('[data-action="kill-primary"]');
    await page.waitForSelector('[data-confirm="kill-primary"]');
    const tookMs = await page.evaluate(
      () =>
        new Promise<number>((resolve) => {
          const began = performance.now();
          new MutationObserver((_, observer) => {
            const dead = document.querySelector('[data-copy="secondary"][data-mood="lost"]');
            if (document.querySelector('.heading')?.getAttribute('data-primary') !== 'beta' || !dead) return;
            observer.disconnect();
            resolve(performance.now() - began);
          }).observe(document.body, { subtree: true, childList: true, attributes: true });
          document.querySelector<HTMLElement>('[data-confirm="kill-primary"]')?.click();
        }),
    );
    t.diagnostic(`the new picture is there ${Math.round(tookMs)} ms after the click`);
    // Two seconds are wanted and one is usual; the rest is for a machine that does much else.
    assert.ok(tookMs < 10_000, `${tookMs} ms`);
    await page.waitForSelector('.heading[data-state="unprotected"][data-epoch="8"]');
    assert.match((await page.textContent('#picture-words')) ?? '', /primary on beta is alone.*alpha is lost/);
    await waitForConsole(page, 'primary', 'from here on: beta');
    await page.click('[data-console="primary"] .xterm-screen');
    await page.keyboard.type('still here');
    await waitForConsole(page, 'primary', 'still here');
    noComplaints(complaints);
  });

  test('a resync shows how far it is, a silent copy that it is silent', { skip }, async (t) => {
    const { page, complaints, source } = await open(t);
    await isProtected(page);
    source.killSecondary();
    source.resync(0.25);
    await page.waitForSelector('[data-copy="secondary"][data-mood="joining"]');
    assert.equal(await page.locator('.heading progress').getAttribute('value'), '0.25');
    assert.match((await page.textContent('#picture-words')) ?? '', /joining \(disks 25 %\)/);
    source.protect();
    await page.waitForSelector('[data-copy="secondary"][data-mood="following"]');
    source.freeze();
    await page.waitForSelector('[data-copy="secondary"][data-mood="silent"]');
    noComplaints(complaints);
  });

  test(
    'a lost connection is told, comes again by itself, and brings everything back',
    { skip },
    async (t) => {
      const { page, source, server, complaints } = await open(t);
      await waitForConsole(page, 'primary', 'web login:');
      await server.close();
      await page.waitForSelector('.link[data-link="lost"]');
      assert.ok(await page.locator('[data-action="checkpoint"]').isDisabled());
      source.killPrimary();
      const port = Number(new URL(server.url).port);
      const again = await serve(source, { port });
      t.after(() => again.close());
      await page.waitForSelector('.link[data-link="open"]');
      await page.waitForSelector('.heading[data-state="unprotected"][data-primary="beta"]');
      await page.waitForSelector('.events li:nth-child(2)');
      // Written when the console of the copy before has been replaced.
      await waitForConsole(page, 'primary', 'from here on: beta');
      await page.waitForSelector('[data-console="primary"][data-status="open"]');
      await page.click('[data-console="primary"] .xterm-screen');
      await page.keyboard.type('back');
      await waitForConsole(page, 'primary', 'back');
      // The browser itself tells of each try that came to nothing.
      noComplaints(complaints.filter((text) => !/WebSocket connection to .* failed/.test(text)));
    },
  );

  test('a VNC screen is shown behind its tab, and its viewer is loaded only then', { skip }, async (t) => {
    const { page, complaints, source } = await open(t, { kind: 'node' });
    const screens = { primary: falseVnc(), secondary: falseVnc() };
    source.screen = (_vm, copy) => Promise.resolve(screens[copy].port);
    await isProtected(page);
    const loaded = (): Promise<boolean> =>
      page.evaluate(() => performance.getEntriesByType('resource').some(({ name }) => name.includes('rfb')));
    assert.equal(await loaded(), false);
    for (const copy of ['primary', 'secondary']) await page.click(`#console-${copy}-tab-vnc`);
    for (const copy of ['primary', 'secondary']) {
      await page.waitForSelector(`[data-screen="${copy}"][data-status="open"] canvas`);
      await page.click(`[data-screen="${copy}"] canvas`);
      await page.keyboard.press('a');
    }
    assert.equal(await loaded(), true);
    await page.click('[data-screen="primary"] canvas');
    await page.keyboard.press('b');
    await page.waitForFunction(() => document.activeElement?.tagName === 'CANVAS');
    await page.click('#console-primary-tab-serial');
    await waitForConsole(page, 'primary', 'web login:');
    assert.deepEqual(screens.secondary.keys, []);
    assert.ok(screens.primary.keys.includes(0x61) && screens.primary.keys.includes(0x62));
    noComplaints(complaints);
  });
}
