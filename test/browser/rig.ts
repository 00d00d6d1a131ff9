/** What every test of the page needs: one browser for all, and for each a source, a server and a page of its own. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import type { DashboardServer } from '../../src/dashboard/server.ts';
import type { DashboardListen } from '../../src/dashboard/server.ts';
import { serve, startBrowser, visit } from '../helpers/browser.ts';
import { FalseSource } from '../helpers/dashboard-source.ts';

let browser: Promise<Browser> | null = null;

export const oneBrowser = (): Promise<Browser> => (browser ??= startBrowser());

export async function closeBrowser(): Promise<void> {
  await (await browser)?.close();
}

export interface Opened {
  readonly source: FalseSource;
  readonly server: DashboardServer;
  readonly page: Page;
  readonly complaints: string[];
}

export interface OpenOptions {
  readonly kind?: 'demo' | 'node';
  readonly listen?: Partial<DashboardListen>;
  readonly context?: BrowserContextOptions;
  readonly address?: (server: DashboardServer) => string;
}

/** A page that shows a protected pair. */
export async function open(t: TestContext, options: OpenOptions = {}): Promise<Opened> {
  const source = new FalseSource(options.kind ?? 'demo');
  const server = await serve(source, options.listen);
  t.after(async () => {
    source.stop();
    await server.close();
  });
  const address = options.address?.(server) ?? server.url;
  const visited = await visit(await oneBrowser(), address, options.context);
  t.after(() => visited.close());
  return { source, server, page: visited.page, complaints: visited.complaints };
}

export const isProtected = (page: Page) => page.waitForSelector('.heading[data-state="protected"]');

/** Confirms what a button asks. */
export async function act(page: Page, action: string): Promise<void> {
  await page.click(`[data-action="${action}"]`);
  await page.click(`dialog [data-confirm="${action}"]`);
}

/** The text on a copy's console. It is drawn only while it can be seen. */
export async function waitForConsole(page: Page, copy: string, text: string): Promise<void> {
  const rows = page.locator(`[data-console="${copy}"] .xterm-rows`);
  await rows.scrollIntoViewIfNeeded();
  await page.waitForFunction(
    ([copy, text]) =>
      document.querySelector(`[data-console="${copy ?? ''}"] .xterm-rows`)?.textContent.includes(text ?? ''),
    [copy, text],
  );
}

export function noComplaints(complaints: readonly string[]): void {
  assert.deepEqual(complaints, []);
}
