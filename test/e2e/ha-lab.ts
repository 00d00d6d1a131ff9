/**
 * A cluster in a lab of network namespaces: real daemons, a real guest on them, a client on the lan that must not notice,
 * and a capture of what the hosts say there. Everything that a host runs can be stopped, killed and cut off.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { TestContext } from 'node:test';
import { NodeClient } from '../../src/api/http-client.ts';
import { withDeadline } from '../../src/base/async.ts';
import { messageOf } from '../../src/base/errors.ts';
import type { WorkloadReport } from '../../src/demo/workload.ts';
import { FileArbiter } from '../../src/ha/arbiter/index.ts';
import { readVmFile } from '../../src/ha/spec/vm-file.ts';
import type { HaEvent, VmView } from '../../src/ha/views.ts';
import { COLO } from '../helpers/colo.ts';
import { EdgeCapture, oneSpeaker, type Verdict } from '../helpers/edge.ts';
import { Lab, type LabOptions } from '../helpers/netns.ts';

export const VM = 'shop';
export const MAC = '52:54:00:12:34:56';
const GUEST = '10.0.2.15';
const BOOT_MS = 300_000;
/** Any single step; generous, as the machine may be loaded. */
export const STEP_MS = 180_000;
const CLIENT = new URL('ha-client.ts', import.meta.url).pathname;

export class ClusterHost {
  readonly name: string;
  readonly folder: string;
  readonly #lab: Lab;
  readonly #arbiter: string;
  #child: ChildProcess | null = null;
  #client: NodeClient | null = null;

  constructor(lab: Lab, name: string, folder: string, arbiter: string) {
    this.#lab = lab;
    this.name = name;
    this.folder = path.join(folder, name);
    this.#arbiter = arbiter;
  }

  /** The daemon; it may have run before. */
  async start(): Promise<void> {
    await mkdir(this.folder, { recursive: true });
    const config = path.join(this.folder, 'node.yaml');
    await writeFile(
      config,
      [
        `name: ${this.name}`,
        `address: ${this.#lab.address(this.name, 'pair')}`,
        `heartbeat: { address: ${this.#lab.address(this.name, 'beat')} }`,
        `state-folder: ${this.folder}/state`,
        `run-folder: ${this.folder}/run`,
        'memory: 1G',
        `arbiter: { file: ${this.#arbiter} }`,
        'metrics: false',
      ].join('\n'),
    );
    const child = this.#lab.spawn(this.name, process.execPath, [COLO, 'node', '--config', config], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const log = createWriteStream(path.join(this.folder, 'node.log'), { flags: 'a' });
    child.stdout!.pipe(log, { end: false });
    child.stderr!.pipe(log, { end: false });
    this.#child = child;
    this.#client = new NodeClient(`unix:${this.folder}/run/node.sock`, { isPatient: false });
    await until(`the daemon of ${this.name}`, STEP_MS, async () => {
      assert.equal(child.exitCode, null, await this.log());
      return this.ask((client) => client.health()).then(
        () => true,
        () => false,
      );
    });
  }

  /** One question to its daemon, which may be frozen. */
  async ask<T>(question: (client: NodeClient) => Promise<T>, ms = 5_000): Promise<T> {
    if (!this.#client) throw new Error(`${this.name} has no daemon`);
    return withDeadline(question(this.#client), ms, this.name);
  }

  async log(): Promise<string> {
    return readFile(path.join(this.folder, 'node.log'), 'utf8').catch(() => '');
  }

  get daemonPid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Of the VM's process here. */
  async vmPid(): Promise<number> {
    for (const pid of await this.#lab.pids(this.name)) {
      const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      if (words.includes(`\0-name\0${VM}\0`)) return pid;
    }
    throw new Error(`${this.name} has no process of ${VM}`);
  }

  /** To every process of the host. */
  async signalAll(signal: NodeJS.Signals): Promise<void> {
    for (const pid of await this.#lab.pids(this.name)) {
      try {
        process.kill(pid, signal);
      } catch {
        // It has ended meanwhile.
      }
    }
  }

  async close(): Promise<void> {
    await this.#client?.close();
  }
}

export class Cluster {
  readonly lab: Lab;
  readonly hosts: readonly ClusterHost[];
  readonly folder: string;
  #edge: EdgeCapture | null = null;
  #client: {
    readonly child: ChildProcess;
    readonly lines: Interface;
    readonly ended: Promise<never>;
  } | null = null;
  readonly troubles: string[] = [];
  /** Where the guest was started. */
  #first = '';

  private constructor(lab: Lab, hosts: readonly ClusterHost[], folder: string) {
    this.lab = lab;
    this.hosts = hosts;
    this.folder = folder;
  }

  /** Daemons, and nothing else yet. On a failure their logs are printed. */
  static async start(t: TestContext, options: LabOptions): Promise<Cluster> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-ha-'));
    t.after(() => rm(folder, { recursive: true, force: true }));
    const lab = await Lab.make(t, options);
    const arbiter = path.join(folder, 'arbiter');
    await mkdir(arbiter);
    const directory = new FileArbiter(arbiter);
    await directory.prepare();
    await directory.close();
    const hosts = options.hosts.map((name) => new ClusterHost(lab, name, folder, arbiter));
    const cluster = new Cluster(lab, hosts, folder);
    t.after(() => Promise.all(hosts.map((host) => host.close())));
    await Promise.all(hosts.map((host) => host.start()));
    for (const host of hosts) {
      await until(`${host.name} knows all hosts`, STEP_MS, async () => {
        const known = await host.ask((client) => client.hosts());
        return known.filter(({ isAlive }) => isAlive).length === hosts.length;
      });
    }
    return cluster;
  }

  host(name: string): ClusterHost {
    const host = this.hosts.find((candidate) => candidate.name === name);
    assert.ok(host, name);
    return host;
  }

  /** The VM, the capture, and the client as soon as the guest has booted. It is placed by the cluster. */
  async up(image: string, words: readonly string[] = []): Promise<void> {
    this.#edge = await EdgeCapture.start(this.lab, path.join(this.folder, 'edge.pcapng'));
    const file = path.join(this.folder, 'vm.yaml');
    const lines = [
      `name: ${VM}`,
      `image: ${image}`,
      'memory: 128M',
      `hosts: [${this.hosts.map(({ name }) => name).join(', ')}]`,
      `network: { bridge: br0, mac: '${MAC}' }`,
      ...words,
    ];
    await writeFile(file, lines.join('\n'));
    const spec = await readVmFile(file);
    await this.hosts[0]!.ask((client) => client.up(spec), STEP_MS);
    const child = this.lab.spawn('client', process.execPath, ['--import', 'tsx', CLIENT, GUEST], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const reader = createInterface({ input: child.stdout! }).setMaxListeners(100);
    reader.on('line', (line) => {
      if (line.startsWith('trouble ')) this.troubles.push(line);
    });
    const ended = once(child, 'exit').then(() => {
      throw new Error('the client has ended');
    });
    ended.catch(() => undefined);
    this.#client = { child, lines: reader, ended };
    await this.#clientLine('started', BOOT_MS);
    this.#first = (await this.untilView('somebody speaks', () => true)).primary!;
  }

  /** What the host that speaks for the VM says, or null while nobody does. */
  async view(): Promise<VmView | null> {
    const views = await Promise.all(
      this.hosts.map((host) => host.ask((client) => client.vm(VM), 2_000).catch(() => null)),
    );
    const own = views.filter(
      (view, index): view is VmView =>
        view !== null &&
        view.copies.some(
          ({ host, role }) => host === this.hosts[index]?.name && (role === 'primary' || role === 'alone'),
        ),
    );
    return own.toSorted((one, other) => other.epoch - one.epoch)[0] ?? null;
  }

  /** Resolves with the view in which `isSo`, of the host that speaks for the VM. */
  async untilView(what: string, isSo: (view: VmView) => boolean): Promise<VmView> {
    let last: VmView | null = null;
    try {
      return await withDeadline(
        (async () => {
          for (;;) {
            last = await this.view();
            if (last !== null && isSo(last)) return last;
            await new Promise((resolve) => setTimeout(resolve, 100));
          }
        })(),
        STEP_MS,
        what,
      );
    } catch (error) {
      const logs = await Promise.all(this.hosts.map(async (host) => `== ${host.name}\n${await host.log()}`));
      throw new Error(`${messageOf(error)}; last: ${JSON.stringify(last)}\n${logs.join('\n')}`, {
        cause: error,
      });
    }
  }

  /** Protected, by a record that is newer than `epoch`. */
  untilProtected(epoch = 0): Promise<VmView> {
    return this.untilView(
      `protected after epoch ${epoch}`,
      (view) => view.state === 'protected' && view.epoch > epoch,
    );
  }

  /** An existing connection answers a request that is sent after now; milliseconds. */
  async reply(): Promise<number> {
    this.#client!.child.stdin!.write('reply\n');
    return Number((await this.#clientLine('replied')).split(' ')[1]);
  }

  /** Events of all hosts whose daemons answer. */
  async events(): Promise<HaEvent[]> {
    const all: HaEvent[] = [];
    for (const host of this.hosts) {
      const own = host.ask(async (client) => {
        const list: HaEvent[] = [];
        for await (const event of client.events({ follow: false })) list.push(event);
        return list;
      });
      all.push(...(await own.catch(() => [])));
    }
    return all.sort((one, other) => one.time.localeCompare(other.time));
  }

  /** The client compares what was acknowledged with what is there; the capture is judged by the arbiter's turns. */
  async end(): Promise<{ readonly report: WorkloadReport; readonly verdict: Verdict }> {
    this.#client!.child.stdin!.write('stop\n');
    // One question a line that was acknowledged.
    const line = await this.#clientLine('report', BOOT_MS);
    const report = JSON.parse(line.slice('report '.length)) as WorkloadReport;
    const frames = await this.#edge!.stop();
    const failovers = (await this.events()).filter(({ type }) => type === 'failover');
    const epochOf = (event: HaEvent): number => Number(event.data?.['epoch'] ?? 0);
    const turns = failovers
      .toSorted((one, other) => epochOf(one) - epochOf(other))
      .map((event) => String(event.data?.['to']));
    return { report, verdict: oneSpeaker(frames, MAC, [this.#first, ...turns]) };
  }

  async #clientLine(word: string, ms = STEP_MS): Promise<string> {
    const { lines, ended } = this.#client!;
    const heard = async (): Promise<string> => {
      for (;;) {
        const [line] = (await Promise.race([once(lines, 'line'), ended])) as [string];
        if (line.startsWith(word)) return line;
      }
    };
    try {
      return await withDeadline(heard(), ms, `'${word}' from the client`);
    } catch (error) {
      const logs = await Promise.all(this.hosts.map(async (host) => `== ${host.name}\n${await host.log()}`));
      throw new Error(`${messageOf(error)}\n${this.troubles.join('\n')}\n${logs.join('\n')}`, {
        cause: error,
      });
    }
  }
}

async function until(what: string, ms: number, isSo: () => Promise<boolean>): Promise<void> {
  const look = async (): Promise<void> => {
    while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 100));
  };
  await withDeadline(look(), ms, what);
}
