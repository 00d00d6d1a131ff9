/**
 * One host of a cluster on this machine: an address of the loopback network, folders of its own, a `colo node` that can be
 * killed and started again. For benchmarks and tests; its guests outlive the daemon, so whoever starts one ends them, too.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { coloCommand } from '../src/base/this-program.ts';
import { identityOf, killProcess } from '../src/ha/room/process-identity.ts';

export interface LoopbackHostOptions {
  readonly name: string;
  readonly address: string;
  /** Of the whole cluster; the host's own is in it. */
  readonly folder: string;
  /** Value of the key `arbiter` in node.yaml. */
  readonly arbiter: string;
  /** Further lines for node.yaml. */
  readonly more?: readonly string[];
}

export class LoopbackHost {
  readonly name: string;
  readonly folder: string;
  readonly #lines: readonly string[];
  #child: ChildProcess | null = null;

  constructor({ name, address, folder, arbiter, more = [] }: LoopbackHostOptions) {
    this.name = name;
    this.folder = path.join(folder, name);
    this.#lines = [
      `name: ${name}`,
      `address: ${address}`,
      'port: 0',
      'dashboard: { port: 0 }',
      `state-folder: ${this.folder}/state`,
      `run-folder: ${this.folder}/run`,
      `arbiter: ${arbiter}`,
      ...more,
      '',
    ];
  }

  /** For `--node`. */
  get node(): string {
    return `unix:${this.folder}/run/node.sock`;
  }

  get daemonPid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error(`${this.name} has no daemon`);
    return pid;
  }

  /** The daemon; it may have run before. Throws with its log when it does not get ready. */
  async start(): Promise<void> {
    await mkdir(this.folder, { recursive: true });
    const config = path.join(this.folder, 'node.yaml');
    await writeFile(config, this.#lines.join('\n'));
    const { command, args } = coloCommand('node', '--config', config);
    // A terminal's interrupt is for whoever started it, and ends it in order.
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    this.#child = child;
    child.stderr.pipe(createWriteStream(path.join(this.folder, 'node.log'), { flags: 'a' }));
    await Promise.race([
      once(child.stdout, 'data'),
      once(child, 'exit').then(async () => {
        throw new Error(`colo node of ${this.name}: ${await this.log()}`);
      }),
    ]);
  }

  /** Ends the daemon. Its guests go on. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  }

  async log(): Promise<string> {
    return readFile(path.join(this.folder, 'node.log'), 'utf8').catch(() => '');
  }

  /** Pid of a VM's process here. */
  async vmPid(vm: string): Promise<number | null> {
    const file = path.join(this.folder, 'run', 'vms', vm, 'process.json');
    const text = await readFile(file, 'utf8').catch(() => null);
    if (text === null) return null;
    const { pid } = JSON.parse(text) as { pid: number };
    return identityOf(pid) === null ? null : pid;
  }

  /** Pids of all VMs' processes here. */
  async vmPids(): Promise<number[]> {
    const names = await readdir(path.join(this.folder, 'run', 'vms')).catch(() => []);
    const pids = await Promise.all(names.map((name) => this.vmPid(name)));
    return pids.filter((pid) => pid !== null);
  }

  /** Images of a VM here. */
  async diskFiles(vm: string): Promise<string[]> {
    const files = await readdir(path.join(this.folder, 'state', 'vms', vm)).catch(() => []);
    return files.filter((file) => file.endsWith('.qcow2'));
  }

  /** Whatever still runs. */
  async killGuests(): Promise<void> {
    for (const pid of await this.vmPids()) {
      const identity = identityOf(pid);
      if (identity) killProcess(identity);
    }
  }

  /** As a reboot does. */
  async clearRunFolder(): Promise<void> {
    await rm(path.join(this.folder, 'run'), { recursive: true, force: true });
  }
}

/** Makes a directory an arbiter's. */
export async function prepareArbiter(directory: string): Promise<void> {
  await mkdir(directory);
  const { command, args } = coloCommand('arbiter', 'prepare', directory);
  const [status] = (await once(spawn(command, args, { stdio: 'inherit' }), 'exit')) as [number | null];
  if (status !== 0) throw new Error(`colo arbiter prepare ${directory}: status ${status ?? 'none'}`);
}
