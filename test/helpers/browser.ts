/**
 * A real browser, once for a file of tests, and the dashboard's own server on an imitated source before it. Every page
 * keeps what its console and its network complained of; a test asks for it at its end.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { DashboardServer } from '../../src/dashboard/server.ts';
import type { DashboardListen } from '../../src/dashboard/server.ts';
import type { DashboardSource } from '../../src/dashboard/source.ts';

export const BUNDLE = fileURLToPath(new URL('../../dist/web', import.meta.url));
const CHROMIUM = process.env['COLO_CHROMIUM'] ?? '/usr/bin/chromium';

/** A reason to skip what needs a browser, or false. */
export const noBrowser = existsSync(CHROMIUM) ? false : `no ${CHROMIUM} (Debian package chromium)`;

/** A machine that does much else is slow, and no test is about that. */
const PATIENCE_MS = 60_000;

export async function startBrowser(): Promise<Browser> {
  const isRoot = process.getuid?.() === 0;
  return chromium.launch({
    executablePath: CHROMIUM,
    timeout: PATIENCE_MS,
    args: ['--disable-dev-shm-usage', ...(isRoot ? ['--no-sandbox'] : [])],
  });
}

export function serve(
  source: DashboardSource,
  options: Partial<DashboardListen> = {},
): Promise<DashboardServer> {
  if (!existsSync(path.join(BUNDLE, 'index.html'))) throw new Error('the page is not built: npm run build');
  return DashboardServer.listen({ host: '127.0.0.1', port: 0, files: BUNDLE, ...options }, source);
}

export interface Visit {
  readonly page: Page;
  /** What went wrong in it so far. */
  readonly complaints: string[];
  close(): Promise<void>;
}

export async function visit(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<Visit> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('requestfailed', (request) =>
    complaints.push(`${request.url()}: ${request.failure()?.errorText ?? ''}`),
  );
  page.on('response', (response) => {
    if (response.status() >= 400) complaints.push(`${response.url()}: ${response.status()}`);
  });
  await page.goto(url);
  return { page, complaints, close: () => context.close() };
}
