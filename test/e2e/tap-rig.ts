/**
 * A network namespace with a bridge, VMs on TAP devices of it, and clients in it, for tests that are root. Everything is
 * told by lines on standard output, as the processes are others'.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { promisify } from 'node:util';
import { withDeadline } from '../../src/base/async.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { COLO, until } from '../helpers/colo.ts';

const run = promisify(execFile);
export const BOOT_MS = 240_000;
export const STEP_MS = 60_000;
const NAMESPACE = `colo-tap-${process.pid}`;
const inside = ['netns', 'exec', NAMESPACE];
const ip = (line: string): Promise<unknown> => run('ip', [...inside, 'ip', ...line.split(' ')]);

/** A process in the namespace. */
function start(command: string, args: readonly string[], stdio: 'ignore' | 'pipe'): ChildProcess {
  return spawn('ip', [...inside, command, ...args], { stdio: [stdio, stdio, 'pipe'] });
}

/** With a bridge that has the addresses 10.0.2.2/24 and fd00::2/64. */
export async function addNamespace(): Promise<void> {
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
}

export async function removeNamespace(): Promise<void> {
  await run('ip', ['netns', 'del', NAMESPACE]);
}

export interface Machine {
  readonly child: ChildProcess;
  readonly qmp: QmpClient;
  readonly stderr: () => string;
}

export async function startMachine(name: string, folder: string, args: readonly string[]): Promise<Machine> {
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
export class Session {
  readonly #child: ChildProcess;
  #answers: string[] = [];
  #text = '';

  constructor(address: string) {
    const program = `const s = require('net').connect(7001, '${address}'); s.setNoDelay(); process.stdin.pipe(s); s.pipe(process.stdout)`;
    this.#child = start(process.execPath, ['-e', program], 'pipe').setMaxListeners(100);
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

/** Where the guest connects to whenever it has no connection (`CALLING`), and repeats what it is told. */
export class Calls {
  readonly #child: ChildProcess;
  readonly #seen: string[] = [];

  constructor() {
    const program = `
      let count = 0, last = null;
      require('net').createServer((s) => {
        const name = ++count;
        last = s.setNoDelay();
        console.log('open ' + name);
        s.on('data', () => console.log('said ' + name)).on('error', () => undefined);
      }).listen(7777, '10.0.2.2');
      process.stdin.on('data', (text) => String(text) === 'cut' ? last?.destroy() : last?.write(text));`;
    this.#child = start(process.execPath, ['-e', program], 'pipe').setMaxListeners(100);
    this.#child.stdout!.on('data', (chunk: Buffer) => {
      this.#seen.push(...chunk.toString().trim().split('\n'));
      this.#child.emit('line');
    });
  }

  /** Ends the connection if there is one, and resolves with the number of the next. */
  async next(): Promise<string> {
    const from = this.#seen.length;
    this.#child.stdin!.write('cut');
    return this.#line('open ', from);
  }

  /** The number of the connection on which the guest repeats a word. */
  async ask(): Promise<string> {
    const from = this.#seen.length;
    this.#child.stdin!.write('hello\n');
    return this.#line('said ', from);
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }

  async #line(prefix: string, from: number): Promise<string> {
    const found = (): string | undefined => this.#seen.slice(from).find((line) => line.startsWith(prefix));
    const heard = async (): Promise<string> => {
      while (found() === undefined) await once(this.#child, 'line');
      return found()!.slice(prefix.length);
    };
    return withDeadline(heard(), STEP_MS, `'${prefix}' from the guest's connection`);
  }
}

/** For the guest's shell. */
export const CALLING =
  'mkfifo /tmp/p; while :; do nc 10.0.2.2 7777 < /tmp/p | cat > /tmp/p; usleep 100000; done >/dev/null 2>&1 &';

/** The first session that the guest answers: it refuses connections, or is not there, until it has booted. */
export async function firstSession(address: string): Promise<Session> {
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
