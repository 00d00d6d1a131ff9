/**
 * A day of an operator: every command of docs/cli.md on three hosts with a real guest, while a client is connected that
 * must not notice any of it. Then daemons are killed, and in the end the power of all hosts fails at once.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import type { Workload } from '../../src/demo/workload.ts';
import type { HostView, VmView } from '../../src/ha/views.ts';
import { writeKeyGuest } from '../helpers/key-guest.ts';
import { until } from '../helpers/colo.ts';
import { Operator, STEP_MS } from './ha-operator.ts';
import { Page } from './ha-page.ts';
import { skipWithoutGuest } from './pair-rig.ts';

const WEB = 'web';
const TINY = 'tiny';
/** A client's connection to a guest that lost its power: it may find that out minutes later. */
const CONNECTION_LOST = /^port \d+: (?!line |session |unexpected )/;
const PATIENT = 'heartbeat: { patience: 3s, link-patience: 10s }';

test(
  'an operator runs two VMs on three hosts by the command line',
  { skip: skipWithoutGuest, timeout: 900_000 },
  async (t) => {
    const operator = await Operator.start(t);
    const { hosts, troubles } = operator;
    let isBroken = false;
    let hasLostPower = false;
    /** What follows a step that failed would fail as well, each after its patience. */
    const step = async (name: string, act: () => Promise<void>): Promise<void> => {
      await t.test(name, { skip: isBroken && 'a step before it failed' }, async () => {
        isBroken = true;
        await act();
        assert.deepEqual(
          troubles.filter((text) => !(hasLostPower && CONNECTION_LOST.test(text))),
          [],
        );
        isBroken = false;
      });
    };
    const web = await operator.write('web.yaml', [
      `name: ${WEB}`,
      `image: ${process.env['COLO_GUEST_IMAGE']!}`,
      'memory: 128M',
      'hosts: [a, b, c]',
      `network: { switch: "unix:${operator.folder}/switch.sock" }`,
      PATIENT,
    ]);
    const image = path.join(operator.folder, 'tiny.raw');
    await writeKeyGuest(image);
    const tinyLines = [`name: ${TINY}`, `image: ${image}`, 'memory: 32M', PATIENT];
    const tiny = await operator.write('tiny.yaml', tinyLines);
    const slow = await operator.write('slow.yaml', [...tinyLines, 'resync: { rate: 64K }']);

    await step('check: what it says can be done', async () => {
      assert.match(await operator.colo('a', 'check', web), /^web: can be protected$/m);
    });

    await step('up --wait: two VMs, spread over the hosts', async () => {
      const [text, other] = await Promise.all([
        operator.colo('a', 'up', web, '--wait'),
        operator
          .untilStatus('b', WEB, 'started', ({ primary }) => primary !== null)
          .then(() => operator.json<VmView>('b', 'up', tiny, '--wait')),
      ]);
      assert.match(text, /^web: protected on \w, secondary on \w: /m);
      assert.equal(other.state, 'protected');
      const { primary } = await operator.json<VmView>('c', 'status', WEB);
      assert.notEqual(primary, other.primary, 'the second is begun where more memory is free');
      assert.deepEqual((await operator.colo('c', 'status', '--names')).trim().split('\n'), [TINY, WEB]);
    });
    let workload: Workload | null = null;
    t.after(() => void workload?.stop().catch(() => undefined));
    const stillServed = async (): Promise<void> => {
      assert.ok(workload);
      await workload.firstReplyAfter(performance.now());
    };
    const seen = (): Promise<VmView> => operator.untilProtected('a', WEB);

    await step('status, hosts, events, logs, console, metrics', async () => {
      workload = await operator.connect();
      const view = await seen();
      assert.match(await operator.colo('b', 'status'), /\| web +\| primary +\| \w+ +\| protected +\|/);
      const list = await operator.json<HostView[]>('c', 'hosts');
      assert.deepEqual(list.map(({ name }) => name).sort(), ['a', 'b', 'c']);
      assert.equal(
        list.reduce((sum, { vms }) => sum + vms.primary, 0),
        2,
      );
      const states = (await operator.events(view.primary!)).filter(
        ({ vm, type }) => vm === WEB && type === 'state',
      );
      assert.ok(states.some(({ to }) => to === 'protected'));
      await operator.colo('c', 'logs', WEB, '--lines', '5');
      await operator.type('b', WEB, 'echo word-$((6*7))\n', /word-42/);
      await operator.type('a', TINY, 'x', /x/);
      const port = operator.metricsPorts[hosts.findIndex(({ name }) => name === view.primary)]!;
      const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      assert.match(metrics, /^colo_vm_state\{[^}]*vm="web",state="protected"[^}]*\} 1$/m);
      await stillServed();
    });

    await step('the dashboard of a host that has nothing of a VM shows both of its copies', async () => {
      const view = await seen();
      const third = operator.other(view.primary, view.secondary);
      const { url } = await operator.json<{ url: string }>(third.name, 'dashboard');
      const page = new Page(url, STEP_MS);
      t.after(() => page.close());
      const hello = await page.until('hello', 'who it is', () => true);
      assert.deepEqual([hello.kind, hello.host, hello.mayAct], ['node', third.name, true]);
      const { vms, hosts: list } = await page.until('cluster', 'both VMs', ({ vms }) => vms.length === 2);
      assert.equal(list.length, 3);
      const shown = vms.find(({ name }) => name === WEB)!;
      assert.deepEqual(shown.actions, ['checkpoint', 'failover', 'migrate', 'pause']);
      assert.deepEqual(shown.screens.secondary, { serial: true, vnc: false });
      const first = await page.console(WEB, 'primary');
      const second = await page.console(WEB, 'secondary');
      // Either guest says it by itself, from the next checkpoint on.
      first.type('(while sleep 0.5; do echo tick-$((6*7)); done) &\n');
      await first.until((text) => text.includes('tick-42'), 'that the primary ticks');
      const answer = await page.act(WEB, 'checkpoint');
      assert.deepEqual([answer.error, answer.text], [null, `${WEB}: a checkpoint has been taken`]);
      const before = second.text.length;
      const ticks = (text: string): number => text.slice(before).split('tick-42').length - 1;
      await second.until((text) => ticks(text) > 0, 'that the secondary ticks');
      second.type('echo typed-$((6*6))\n');
      const heard = ticks(second.text);
      await second.until((text) => ticks(text) > heard + 2, 'that the secondary goes on');
      assert.doesNotMatch(
        second.text.slice(before),
        /typed/,
        "what is typed at a secondary's console is dropped",
      );
      first.type('kill %1\n');
      first.close();
      second.close();
      page.close();
      await stillServed();
    });

    await step('checkpoint', async () => {
      const before = (await operator.json<VmView>('a', 'status', WEB)).checkpoints?.count ?? 0;
      const after = await operator.json<VmView>('b', 'checkpoint', WEB);
      assert.ok((after.checkpoints?.count ?? 0) > before);
      await stillServed();
    });

    await step('failover: the secondary is heard, the first is its secondary again', async () => {
      // A checkpoint that was due lets a guest run that had been stopped to give way: all is copied then.
      let reason = '';
      for (let times = 0; times < 3 && !reason.endsWith('what had changed was copied'); times++) {
        const before = await seen();
        const after = await operator.json<VmView>('c', 'failover', WEB);
        assert.equal(after.primary, before.secondary);
        await stillServed();
        const whole = await operator.untilProtected('a', WEB, before.epoch);
        assert.equal(whole.secondary, before.primary);
        const copied = (await operator.events(after.primary!)).filter(
          ({ vm, to }) => vm === WEB && to === 'protecting',
        );
        ({ reason } = copied.at(-1)!);
        t.diagnostic(reason);
      }
      assert.match(reason, /what had changed was copied$/);
    });

    await step('migrate: to the host that has nothing of it', async () => {
      const before = await seen();
      const { name } = operator.other(before.primary, before.secondary);
      const after = await operator.json<VmView>('b', 'migrate', WEB, name);
      assert.equal(after.primary, name);
      await stillServed();
      await operator.untilProtected('a', WEB, before.epoch);
    });

    await step('pause: nothing is protected again before resume', async () => {
      const before = await seen();
      assert.equal((await operator.json<VmView>('a', 'pause', WEB)).isPaused, true);
      process.kill((await operator.host(before.secondary).vmPid(WEB))!, 'SIGKILL');
      const alone = await operator.untilStatus(
        'b',
        WEB,
        'alone',
        ({ state, epoch }) => epoch > before.epoch && (state === 'unprotected' || state === 'backing-off'),
      );
      assert.equal(alone.primary, before.primary);
      await stillServed();
      const told = await operator.lastEvent(before.primary!);
      assert.equal((await operator.json<VmView>('c', 'resume', WEB)).isPaused, false);
      await operator.untilProtected('a', WEB, before.epoch);
      const states = (await operator.events(before.primary!)).filter(
        ({ vm, type, to }) => vm === WEB && type === 'state' && to === 'syncing',
      );
      assert.ok(states.at(-1)!.sequence > told, 'protection was begun after resume');
    });

    await step('a daemon is killed: its guest goes on, the next daemon looks after it', async () => {
      const before = await seen();
      const home = operator.host(before.primary);
      const { name } = operator.other(before.primary, before.secondary);
      const pid = await home.vmPid(WEB);
      const told = await operator.lastEvent(home.name);
      await home.end('SIGKILL');
      await stillServed();
      assert.equal((await operator.run(home.name, 'status')).status, 5);
      await home.start();
      await operator.untilEvent(home.name, told, 'a start', ({ type }) => type === 'node-started');
      const same = await operator.untilProtected(name, WEB, before.epoch - 1);
      assert.deepEqual([same.epoch, same.primary], [before.epoch, before.primary], 'nobody went on alone');
      assert.equal(await home.vmPid(WEB), pid);
      await stillServed();
      process.kill((await operator.host(same.secondary).vmPid(WEB))!, 'SIGKILL');
      const after = await operator.untilProtected(name, WEB, before.epoch);
      assert.equal(after.primary, before.primary);
      assert.equal(await home.vmPid(WEB), pid);
      await stillServed();
    });

    await step('drain: a host is emptied; undrain: it may be used again', async () => {
      const before = await seen();
      const home = before.primary!;
      await operator.colo(operator.other(home).name, 'drain', home);
      const list = await operator.json<HostView[]>('a', 'hosts');
      const emptied = list.find(({ name }) => name === home);
      assert.deepEqual([emptied?.isInMaintenance, emptied?.vms], [true, { primary: 0, secondary: 0 }]);
      assert.deepEqual(await operator.host(home).vmPids(), []);
      const moved = await operator.untilProtected('a', WEB, before.epoch);
      assert.ok(moved.primary !== home && moved.secondary !== home);
      const other = await operator.untilProtected('a', TINY);
      assert.ok(other.primary !== home && other.secondary !== home);
      await stillServed();
      assert.equal((await operator.json<HostView>('b', 'undrain', home)).isInMaintenance, false);
    });

    await step('what is asked for and is not there: a line and a status', async () => {
      const unknown = await operator.run('a', 'failover', 'nobody');
      assert.deepEqual([unknown.status, unknown.out], [3, '']);
      assert.match(unknown.err, /^colo failover: .*'nobody'.*; colo status lists them\n$/);
      assert.equal((await operator.run('a', 'migrate', WEB, 'z')).status, 3);
      assert.equal((await operator.run('b', 'drain', 'z')).status, 3);
    });

    await step(
      'the power of all hosts fails: it comes back by itself, with every acknowledged line',
      async () => {
        const before = await seen();
        const stranger = operator.other(before.primary, before.secondary);
        const members = hosts.filter((host) => host !== stranger);
        const told = await operator.lastEvent(stranger.name);
        await stillServed();
        const guests = (await Promise.all(hosts.map((host) => host.vmPids()))).flat();
        for (const pid of [...hosts.map(({ daemonPid }) => daemonPid), ...guests])
          process.kill(pid, 'SIGKILL');
        hasLostPower = true;
        const acknowledged = new Map(workload!.acknowledged);
        for (const host of hosts) {
          await host.end('SIGKILL');
          await host.clearRunFolder();
        }
        // The one that was no member first, alone: nothing but the arbiter's record keeps it from starting.
        await stranger.start();
        assert.equal(await stranger.vmPid(WEB), null);
        // The first of the members waits for the other, for a while, and that is what is told.
        const [first, second] = members;
        await first!.start();
        await operator.untilStatus(
          first!.name,
          WEB,
          'waiting',
          ({ state, reason }) => state === 'blocked' && reason.startsWith(`waits for ${second!.name}`),
        );
        await second!.start();
        const view = await operator.untilStatus(
          'a',
          WEB,
          'running',
          ({ state, epoch, primary }) => epoch > before.epoch && primary !== null && state !== 'starting',
        );
        assert.ok(members.some(({ name }) => name === view.primary));
        await until('every line is there', STEP_MS * 2, async () => {
          const missing = await operator.missingLines(acknowledged).catch(() => null);
          if (missing) assert.deepEqual(missing, []);
          return missing !== null;
        });
        assert.ok(acknowledged.size > 0);
        const started = (await operator.events(stranger.name, told)).filter(
          ({ vm, to }) => vm === WEB && to === 'starting',
        );
        assert.deepEqual(started, []);
        await operator.untilProtected('b', WEB, before.epoch);
        await operator.untilProtected('c', TINY);
      },
    );

    await step('down and up again: the same disk; down --purge: nothing is left', async () => {
      const down = await operator.json<VmView>('b', 'down', TINY);
      assert.deepEqual([down.state, down.isWanted], ['down', false]);
      for (const host of hosts) assert.equal(await host.vmPid(TINY), null);
      const up = await operator.json<VmView>('c', 'up', tiny, '--wait');
      assert.equal(up.state, 'protected');
      await operator.type('b', TINY, 'y', /y/);
      // In the middle of a resync, too, of which nothing is left for the next start to meet.
      await operator.colo('a', 'down', TINY);
      await operator.colo('b', 'up', slow);
      await operator.untilStatus('a', TINY, 'a resync', ({ state }) => state === 'syncing');
      await operator.colo('c', 'down', TINY);
      const whole = await operator.json<VmView>('b', 'up', tiny, '--wait');
      assert.equal(whole.state, 'protected');
      // By a daemon that has only taken it up, alone.
      await operator.colo('a', 'pause', TINY);
      process.kill((await operator.host(whole.secondary).vmPid(TINY))!, 'SIGKILL');
      await operator.untilStatus('c', TINY, 'alone', ({ secondary }) => secondary === null);
      await operator.host(whole.primary).end('SIGKILL');
      await operator.host(whole.primary).start();
      await operator.untilAllAlive('a');
      await operator.colo('a', 'down', TINY);
      await operator.colo('a', 'resume', TINY);
      const running = await operator.run('a', 'down', TINY, '--purge');
      assert.equal(running.status, 2, 'without --yes and a terminal nothing is deleted');
      await operator.colo('a', 'down', TINY, '--purge', '--yes');
      assert.equal((await operator.run('b', 'status', TINY)).status, 3);
      for (const host of hosts) assert.deepEqual(await host.diskFiles(TINY), []);
    });
  },
);
