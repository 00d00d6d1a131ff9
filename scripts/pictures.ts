/**
 * Makes the pictures of the dashboard in docs/pictures/, in a real browser on an imitated pair:
 *
 *     npm run build && node --import tsx scripts/pictures.ts
 *
 * It takes a minute and a half, as the charts have to fill. What is in the pictures is imitated, numbers included.
 */
import { mkdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { serve, startBrowser, visit } from '../test/helpers/browser.ts';
import { FalseSource } from '../test/helpers/dashboard-source.ts';

const FOLDER = fileURLToPath(new URL('../docs/pictures', import.meta.url));
const FILLING_MS = Number(process.env['COLO_PICTURES_MS'] ?? 75_000);
const LARGEST_BYTES = 150_000;

/** What a guest would have said; both copies say the same. */
const CONSOLE = `[    1.204511] EXT4-fs (vda1): mounted filesystem with ordered data mode
[    1.377264] Run /sbin/init as init process
web: network is up: 10.0.2.15/24

web login: root
root@web:~# uptime
 11:42:07 up 3 days,  2:11,  load average: 0.08, 0.03, 0.01
root@web:~# while sleep 1; do curl -sf localhost/counter; done
`;

const source = new FalseSource('demo');
let counter = 48_210;
const line = (count: number): string => `request ${count} answered by web\r\n`;
const consoles = new Set<Duplex>();
source.console = () => {
  const port: Duplex = new Duplex({ read: () => undefined, write: (_bytes, _encoding, done) => done() });
  port.push(CONSOLE.replaceAll('\n', '\r\n'));
  for (let back = 4; back >= 0; back--) port.push(line(counter - back));
  consoles.add(port);
  port.once('close', () => consoles.delete(port));
  return Promise.resolve(port);
};
for (const [type, reason, host] of [
  ['host-heard', 'host beta is heard', 'alpha'],
  ['failover', 'beta did not answer any more: alpha has taken over', 'alpha'],
  ['peer-lost', 'the checkpoint channel was silent for 400 ms', 'alpha'],
] as const) {
  source.event({ type, reason, host });
}

/** A guest with bursts of work, and checkpoints as the timer and the differences ask for them. */
let tick = 0;
let nextCheckpoint = 7;
const work = setInterval(() => {
  tick++;
  const burst = tick % 97 < 22 ? 30 : 0;
  source.traffic(Math.max(0, Math.round(9 + 6 * Math.sin(tick / 13) + burst * Math.random())));
  if (tick % 40 === 0) {
    counter++;
    for (const port of consoles) port.push(line(counter));
  }
  if (tick < nextCheckpoint) return;
  const isMismatch = burst > 0 && Math.random() < 0.7;
  source.checkpoint(isMismatch ? 'mismatch' : 'timer');
  nextCheckpoint = tick + (isMismatch ? 6 : 20);
}, 100);

mkdirSync(FOLDER, { recursive: true });
const server = await serve(source);
const browser = await startBrowser();

async function picture(page: Page, name: string, height: number): Promise<void> {
  const file = path.join(FOLDER, `${name}.png`);
  const width = page.viewportSize()?.width ?? 0;
  await page.setViewportSize({ width, height });
  // Charts are drawn once a second, consoles when they come into sight.
  await sleep(1500);
  await page.screenshot({ path: file });
  const { size } = statSync(file);
  console.log(`${path.relative('.', file)} ${size} bytes`);
  if (size > LARGEST_BYTES) throw new Error(`${file} is larger than ${LARGEST_BYTES} bytes`);
}

const wide = { viewport: { width: 1080, height: 1000 }, reducedMotion: 'reduce' } as const;
const light = await visit(browser, server.url, wide);
const dark = await visit(browser, server.url, { ...wide, colorScheme: 'dark' });
const phone = await visit(browser, server.url, {
  ...{ viewport: { width: 360, height: 700 }, deviceScaleFactor: 1.5, isMobile: true, hasTouch: true },
  reducedMotion: 'reduce',
});
await sleep(FILLING_MS);
await picture(light.page, 'dashboard', 1040);
await picture(phone.page, 'dashboard-phone', 1010);
await light.page.locator('.charts').evaluate((charts) => charts.scrollIntoView());
await picture(light.page, 'dashboard-charts', 780);
await picture(dark.page, 'dashboard-dark', 1040);
await light.page.evaluate(() => scrollTo(0, 0));
await light.page.click('[data-action="kill-primary"]');
await picture(light.page, 'dashboard-question', 760);
await light.page.click('[data-confirm="kill-primary"]');
await light.page.waitForSelector('.heading[data-state="unprotected"]');
await picture(light.page, 'dashboard-killed', 760);
source.resync(0.62);
await light.page.waitForSelector('progress');
await light.page.locator('.answer button').first().click();
await picture(light.page, 'dashboard-syncing', 760);

clearInterval(work);
for (const { close } of [light, dark, phone]) await close();
await browser.close();
source.stop();
await server.close();
