/**
 * A pair on TAP devices of the host (`-netdev tap`), on a bridge in a network namespace that this test makes itself; the
 * client is the host's own TCP, over IPv4 and IPv6. The guest has IPv6 by the configuration that `colo guest --ip6`
 * writes. What was connected before the primary dies goes on, whether opened before the pair was made or after.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { withDeadline } from '../../src/base/async.ts';
import {
  createSecondaryDisks,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from '../../src/demo/hosts.ts';
import { HOSTS, pairAddresses } from '../../src/demo/pair.ts';
import { bootConfig } from '../../src/guest/guest-scripts.ts';
import {
  addPrimaryChardevs,
  exportSecondaryDisk,
  failoverSecondary,
  resumeReplication,
  startResync,
} from '../../src/ha/procedure.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { COLO, until } from '../helpers/colo.ts';

const run = promisify(execFile);
const image = process.env['COLO_GUEST_IMAGE'];
const skip =
  image === undefined
    ? 'set COLO_GUEST_IMAGE to a guest made by colo guest'
    : process.getuid?.() !== 0
      ? 'a TAP device and a network namespace need root'
      : false;
const BOOT_MS = 240_000;
const STEP_MS = 60_000;
const NAMESPACE = `colo-tap-${process.pid}`;
/** Where the guest is, by family. */
const GUEST = { IPv4: '10.0.2.15', IPv6: 'fd00::f' } as const;
const FAMILIES = ['IPv4', 'IPv6'] as const;
const inside = ['netns', 'exec', NAMESPACE];
const ip = (line: string): Promise<unknown> => run('ip', [...inside, 'ip', ...line.split(' ')]);

/** A process in the namespace. */
function start(command: string, args: readonly string[], stdio: 'ignore' | 'pipe'): ChildProcess {
  return spawn('ip', [...inside, command, ...args], { stdio: [stdio, stdio, 'pipe'] });
}

interface Machine {
  readonly child: ChildProcess;
  readonly qmp: QmpClient;
  readonly stderr: () => string;
}

async function startMachine(name: string, folder: string, args: readonly string[]): Promise<Machine> {
  const words = args.map((word) =>
    word.startsWith('stream,id=hn0')
      ? `tap,id=hn0,ifname=tap-${name},script=no,downscript=no,vhost=off`
      : word.replace('ne2k_pci', 'rtl8139'),
  );
  const socket = path.join(folder, `${name}.qmp`);
  const child = start(
    process.execPath,
    [COLO, 'vm', '-qmp', `unix:${socket},server,nowait`, ...words],
    'ignore',
  );
  let text = '';
  child.stderr!.on('data', (chunk: Buffer) => (text += chunk.toString()));
  let qmp: QmpClient | null = null;
  await until(`the monitor of ${name}`, STEP_MS, async () => {
    assert.equal(child.exitCode, null, text);
    qmp = await QmpClient.connect({ path: socket }).catch(() => null);
    return qmp !== null;
  });
  await ip(`link set tap-${name} master br0 up`);
  return { child, qmp: qmp!, stderr: () => text };
}

/** A connection of a client in the namespace to the guest's session service. */
class Session {
  readonly #child: ChildProcess;
  #answers: string[] = [];
  #text = '';

  constructor(address: string) {
    const program = `const s = require('net').connect(7001, '${address}'); s.setNoDelay(); process.stdin.pipe(s); s.pipe(process.stdout)`;
    this.#child = start(process.execPath, ['-e', program], 'pipe');
    this.#child.stdin!.on('error', () => undefined);
    this.#child.stdout!.on('data', (chunk: Buffer) => {
      const lines = (this.#text + chunk.toString()).split('\n');
      this.#text = lines.pop() ?? '';
      this.#answers.push(...lines);
      this.#child.emit('answer');
    });
  }

  /** The answer to one more line: `session ID COUNT`. */
  async ask(patienceMs = STEP_MS): Promise<string> {
    const seen = this.#answers.length;
    this.#child.stdin!.write('hello\n');
    const answered = async (): Promise<string> => {
      while (this.#answers.length === seen) {
        await Promise.race([once(this.#child, 'answer'), once(this.#child, 'exit')]);
        assert.equal(this.#child.exitCode, null, 'the connection has ended');
      }
      return this.#answers.at(-1)!;
    };
    return withDeadline(answered(), patienceMs, 'an answer from the guest');
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }
}

/** The first session that the guest answers: it refuses connections, or is not there, until it has booted. */
async function firstSession(address: string): Promise<Session> {
  const giveUpAt = performance.now() + BOOT_MS;
  for (;;) {
    const session = new Session(address);
    try {
      await session.ask(3000);
      return session;
    } catch (error) {
      session.close();
      if (performance.now() > giveUpAt) throw error;
    }
  }
}

test(
  'connections of either family outlive the primary on -netdev tap',
  { skip, timeout: 300_000 },
  async (t) => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-tap-'));
    const machines: Machine[] = [];
    const sessions: Session[] = [];
    try {
      await run('ip', ['netns', 'add', NAMESPACE]);
      for (const line of [
        'link set lo up',
        // No spanning tree, no snooping: a frame passes as soon as its port is up.
        'link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
        'addr add 10.0.2.2/24 dev br0',
        'addr add fd00::2/64 dev br0 nodad',
        'link set br0 up',
      ])
        await ip(line);

      const raw = path.join(folder, 'guest.raw');
      await copyFile(image!, raw);
      await writeFile(path.join(folder, 'syslinux.cfg'), bootConfig({ ip6: `${GUEST.IPv6}/64` }));
      await run('mcopy', [
        '-n',
        '-o',
        '-i',
        `${raw}@@1M`,
        path.join(folder, 'syslinux.cfg'),
        '::/syslinux.cfg',
      ]);
      const disk = path.join(folder, 'primary.qcow2');
      await run('qemu-img', ['convert', '-O', 'qcow2', raw, disk]);
      const lengthBytes = await imageSize(disk);
      const machine = { memoryMiB: 128, switchPath: '' };
      const primary = await startMachine('primary', folder, firstPrimaryArguments(machine, disk));
      machines.push(primary);
      assert.match(primary.stderr(), /rtl8139.*ne2k_pci instead/);

      await t.test('the guest is reached over both families', async () => {
        for (const family of FAMILIES) {
          const session = await firstSession(GUEST[family]);
          sessions.push(session);
          assert.match(await session.ask(), /^session \S+ 2$/, family);
        }
      });

      const at = await pairAddresses(HOSTS[0]);
      const disks = await createSecondaryDisks(path.join(folder, 'secondary'), lengthBytes);
      await addPrimaryChardevs(primary.qmp, at);
      const secondary = await startMachine('secondary', folder, secondaryArguments(machine, disks, at));
      machines.push(secondary);
      await exportSecondaryDisk(secondary.qmp, at);
      const ready = primary.qmp.waitFor('BLOCK_JOB_READY', () => true, STEP_MS);
      await startResync(primary.qmp, at);
      await ready;
      const running = secondary.qmp.waitFor('RESUME', () => true, STEP_MS);
      await primary.qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': 20_000 });
      await resumeReplication(primary.qmp, at, false);
      await running;

      await t.test('new connections under protection', async () => {
        for (const family of FAMILIES) {
          const session = new Session(GUEST[family]);
          sessions.push(session);
          assert.match(await session.ask(), /^session \S+ 1$/);
        }
        for (const session of sessions) await session.ask();
      });

      await t.test('the primary is killed, and every connection goes on', async () => {
        const before: string[] = [];
        for (const session of sessions) before.push(await session.ask());
        primary.child.kill('SIGKILL');
        await once(primary.child, 'exit');
        const killed = performance.now();
        await failoverSecondary(secondary.qmp);
        t.diagnostic(`took over after ${Math.round(performance.now() - killed)} ms`);
        const after = await Promise.all(
          sessions.map(async (session) => {
            const answer = await session.ask();
            t.diagnostic(`${answer} after ${Math.round(performance.now() - killed)} ms`);
            return answer;
          }),
        );
        assert.deepEqual(
          after,
          before.map((answer) => answer.replace(/\d+$/, (count) => String(Number(count) + 1))),
        );
      });
    } finally {
      for (const session of sessions) session.close();
      for (const { child } of machines) child.kill('SIGKILL');
      await run('ip', ['netns', 'del', NAMESPACE]).catch(() => undefined);
      await rm(folder, { recursive: true, force: true });
    }
  },
);
