/**
 * `colo demo --hands-on` as a person has it: a real guest, its copies killed, frozen and cut off from the page, over the
 * page's own WebSocket and once in a real browser; at the end a Ctrl+C on the terminal, and nothing is lost. One demo is
 * booted for all of it.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { messageOf } from '../../src/base/errors.ts';
import type { Action, VmPicture } from '../../src/dashboard/protocol.ts';
import { noBrowser, startBrowser, visit } from '../helpers/browser.ts';
import { COLO } from '../helpers/colo.ts';
import { PageClient } from '../helpers/page-client.ts';
import { skipWithoutGuest } from './pair-rig.ts';

const run = promisify(execFile);

describe('the demo in a person’s hands', { skip: skipWithoutGuest, timeout: 600_000 }, () => {
  let folder = '';
  let demo: ChildProcess;
  let said = '';
  let url = '';
  let page: PageClient;

  before(async () => {
    if (skipWithoutGuest !== false) return;
    folder = await mkdtemp(path.join(os.tmpdir(), 'colo-demo-page-'));
    const image = path.join(folder, 'guest.qcow2');
    await run('qemu-img', ['convert', '-O', 'qcow2', process.env['COLO_GUEST_IMAGE']!, image]);
    // A group of its own, as a shell gives it: a Ctrl+C goes to all of the group.
    const words = ['demo', '--hands-on', '--port', '0', '--image', image];
    demo = spawn(process.execPath, [COLO, ...words], {
      detached: true,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    demo.stdout?.setEncoding('utf8').on('data', (text: string) => (said += text));
    while (!/kill, at (http:\S+)/.test(said)) await once(demo.stdout!, 'data');
    url = /kill, at (http:\S+)/.exec(said)![1]!;
    page = await PageClient.open(url, 'demo');
    await page.until('the guest boots', ({ state }) => state !== 'starting');
  });

  after(async () => {
    page.close();
    if (demo.exitCode === null) process.kill(demo.pid!, 'SIGTERM');
    await rm(folder, { recursive: true, force: true });
  });

  const whole = (since: number): Promise<VmPicture> =>
    page.until(`protected after ${since}`, ({ state, epoch }) => state === 'protected' && epoch > since);

  /** A pair of which one half has not been heard for a moment, on a busy machine, is left alone: it is asked again. */
  async function act(action: Action): Promise<string> {
    for (;;) {
      try {
        return await page.act('demo', action);
      } catch (error) {
        if (!/the VM is suspect/.test(messageOf(error))) throw error;
        await page.until('the other copy is heard again', ({ state }) => state !== 'suspect');
      }
    }
  }

  /** The pair after it has been done to it, whole again. */
  async function afterThe(
    action: Action,
    isOver: (vm: VmPicture) => boolean,
  ): Promise<[VmPicture, VmPicture]> {
    const old = page.vm!;
    await act(action);
    await page.until(`the pair ends by ${action}`, isOver);
    return [old, await whole(old.epoch)];
  }
  const isAlone = ({ state }: VmPicture): boolean => state === 'unprotected' || state === 'syncing';

  it('is protected, with two hosts, two consoles and everything to do', async () => {
    const vm = await whole(0);
    assert.equal(page.hello?.kind, 'demo');
    assert.equal(page.hello.mayAct, true);
    assert.deepEqual(
      page.hosts.map(({ name }) => name),
      ['127.0.0.1', '127.0.0.2'],
    );
    assert.deepEqual(
      vm.copies.map(({ host, role }) => `${role} on ${host}`),
      ['primary on 127.0.0.1', 'secondary on 127.0.0.2'],
    );
    assert.ok(vm.screens.primary.serial && vm.screens.secondary.serial);
    for (const action of [
      'failover',
      'kill-primary',
      'kill-secondary',
      'freeze-primary',
      'cut-link',
    ] as const) {
      assert.ok(vm.actions.includes(action), action);
    }
    assert.match(vm.reason, /the client made \d+ requests, lost nothing/);
    await page.untilPair('the checkpoint channel is heard', ({ channel }) => channel !== null);
  });

  it('has a console that echoes on the primary, and is not typed on at the secondary', async () => {
    const [primary, secondary] = await Promise.all([
      page.console('demo', 'primary'),
      page.console('demo', 'secondary'),
    ]);
    secondary.type('touch /tmp/ty""ped\n');
    primary.type('echo he""llo-$((40+2))\n');
    await primary.says(/hello-42/);
    // After a checkpoint both have what the primary has.
    assert.match(await act('checkpoint'), /holds a new checkpoint/);
    primary.type('ls /tmp/typed || echo no""thing\n');
    await primary.says(/nothing/);
    assert.doesNotMatch(secondary.text, /typed/);
    const left = secondary.closed;
    const [old, vm] = await afterThe('kill-primary', isAlone);
    // Who looked at the secondary is sent away, and finds it as the primary.
    await left;
    assert.equal(vm.primary, old.secondary);
    assert.equal(vm.lastFailover?.to, old.secondary);
    await page.untilEvent('the client is answered', ({ type }) => type === 'client');
    const survivor = await page.console('demo', 'primary');
    survivor.type('echo he""llo-$((40+3))\n');
    await survivor.says(/hello-43/);
    survivor.close();
  });

  it('goes on at once when the secondary is killed', async () => {
    const [old, vm] = await afterThe('kill-secondary', isAlone);
    assert.equal(vm.primary, old.primary);
    assert.notEqual(vm.copies[1]?.pid, old.copies[1]?.pid);
  });

  it('is taken over from a frozen primary', async () => {
    const [old, vm] = await afterThe('freeze-primary', isAlone);
    assert.equal(vm.primary, old.secondary);
    assert.match(vm.lastFailover?.reason ?? '', /is stopped and says nothing/);
  });

  it('suspects a cut link first, and then goes on with the primary', async () => {
    const [old, vm] = await afterThe('cut-link', ({ state }) => state === 'suspect');
    assert.equal(vm.primary, old.primary);
    await page.untilEvent(
      'the link is cut',
      ({ type, data }) => type === 'peer-lost' && data?.['kind'] === 'link-cut',
    );
  });

  it('switches over when it is asked to', async () => {
    const old = page.vm!;
    assert.match(await act('failover'), /is heard$/);
    assert.equal((await whole(old.epoch)).primary, old.secondary);
  });

  it('heals after a kill -9 by somebody else', async () => {
    const old = page.vm!;
    process.kill(old.copies[1]!.pid!, 'SIGKILL');
    assert.equal((await whole(old.epoch)).primary, old.primary);
  });

  it('is killed in a real browser, which shows the new picture', { skip: noBrowser }, async () => {
    const browser = await startBrowser();
    try {
      const { page: seen, complaints } = await visit(browser, url);
      await seen.waitForSelector('.heading[data-state="protected"]');
      const old = page.vm!;
      await seen.click('[data-action="kill-primary"]');
      await seen.click('dialog [data-confirm="kill-primary"]');
      await seen.waitForSelector('.heading:not([data-state="protected"])');
      await seen.waitForSelector('.heading[data-state="protected"]');
      const vm = await whole(old.epoch);
      assert.equal(vm.primary, old.secondary);
      await seen.waitForSelector(`[data-copy="primary"]:has-text("${vm.primary ?? ''}")`);
      assert.deepEqual(complaints, []);
    } finally {
      await browser.close();
    }
  });

  it('ends at Ctrl+C with nothing lost', async () => {
    const left = once(demo, 'exit');
    process.kill(-demo.pid!, 'SIGINT');
    const [code] = (await left) as [number | null];
    assert.match(said, /connections lost +0\n/);
    assert.match(said, /ledger lines lost +0\n/);
    assert.match(said, /\(primary\), .*\(secondary\), .*\(frozen\), .*\(link cut\), .*\(planned\)/);
    assert.match(said, /Nothing was lost\.\n$/);
    assert.equal(code, 0);
  });
});
