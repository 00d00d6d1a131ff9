/**
 * A cluster in a lab of network namespaces: real daemons, a real guest on them, a client on the lan that must not notice,
 * and a capture of what the hosts say there. Everything that a host runs can be stopped, killed and cut off.
 */
import assert from 'node:assert/strict';
import { execFile, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { NodeClient } from '../../src/api/http-client.ts';
import { withDeadline } from '../../src/base/async.ts';
import { messageOf } from '../../src/base/errors.ts';
import type { WorkloadReport } from '../../src/demo/workload.ts';
import { FileArbiter } from '../../src/ha/arbiter/index.ts';
import { readVmFile } from '../../src/ha/spec/vm-file.ts';
import type { HaEvent, VmView } from '../../src/ha/views.ts';
import { COLO } from '../helpers/colo.ts';
import { EdgeCapture, oneSpeaker, spokenIn, type Verdict } from '../helpers/edge.ts';
import { Lab, type LabOptions } from '../helpers/netns.ts';

export const VM = 'shop';
export const MAC = '52:54:00:12:34:56';
const GUEST = '10.0.2.15';
const BOOT_MS = 300_000;
/** Any single step; generous, as the machine may be loaded. */
export const STEP_MS = 180_000;
/** A daemon may have to ask an arbiter that is slow; one that is frozen says nothing. */
const VIEW_MS = 10_000;
const CLIENT = new URL('ha-client.ts', import.meta.url).pathname;
/** Of Debian's package `faketime`. */
export const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1';
const run = promisify(execFile);

/** With `hasArbiter` the arbiter is an etcd in a namespace of its own, else a folder. */
export interface ClusterOptions extends LabOptions {
  /** Each host's state folder is a file system of its own, so large. */
  readonly stateMiB?: number;
  /** Each host's wall clock can be set (`setClock`). */
  readonly hasClocks?: boolean;
}

export class ClusterHost {
  readonly name: string;
  readonly folder: string;
  readonly #lab: Lab;
  /** As node.yaml says it. */
  readonly #arbiter: string;
  readonly #options: ClusterOptions;
  #child: ChildProcess | null = null;
  #client: NodeClient | null = null;

  constructor(lab: Lab, name: string, folder: string, arbiter: string, options: ClusterOptions) {
    this.#lab = lab;
    this.name = name;
    this.folder = path.join(folder, name);
    this.#arbiter = arbiter;
    this.#options = options;
  }

  get stateFolder(): string {
    return path.join(this.folder, 'state');
  }

  /** Once, before its first daemon. */
  async prepare(): Promise<void> {
    const { stateMiB, hasClocks } = this.#options;
    await mkdir(this.stateFolder, { recursive: true });
    if (hasClocks) await this.setClock(0);
    if (stateMiB) {
      await run('mount', ['-t', 'tmpfs', '-o', `size=${stateMiB}m`, 'colo-lab', this.stateFolder]);
    }
  }

  async unmount(): Promise<void> {
    if (this.#options.stateMiB) await run('umount', ['-l', this.stateFolder]).catch(() => undefined);
  }

  /** Wall clock of its daemon and its VMs, against everybody else's. */
  async setClock(aheadSeconds: number): Promise<void> {
    const file = path.join(this.folder, 'clock');
    await writeFile(`${file}.new`, `${aheadSeconds < 0 ? '' : '+'}${aheadSeconds}\n`);
    await rename(`${file}.new`, file);
  }

  /** The daemon; it may have run before. */
  async start(): Promise<void> {
    const config = path.join(this.folder, 'node.yaml');
    await writeFile(
      config,
      [
        `name: ${this.name}`,
        `address: ${this.#lab.address(this.name, 'pair')}`,
        `heartbeat: { address: ${this.#lab.address(this.name, 'beat')} }`,
        `state-folder: ${this.stateFolder}`,
        `run-folder: ${this.folder}/run`,
        'memory: 1G',
        `arbiter: ${this.#arbiter}`,
        'metrics: false',
      ].join('\n'),
    );
    const child = this.#lab.spawn(this.name, process.execPath, [COLO, 'node', '--config', config], {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(this.#options.hasClocks ? { env: this.#fakeTime() } : {}),
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

  /** The monotonic clock, by which everything is timed, is the true one. */
  #fakeTime(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      LD_PRELOAD: FAKETIME,
      FAKETIME_TIMESTAMP_FILE: path.join(this.folder, 'clock'),
      FAKETIME_NO_CACHE: '1',
      DONT_FAKE_MONOTONIC: '1',
    };
  }

  /** Resolves when its daemon has told such an event, later than the first `after`. Asks nobody else. */
  async untilEvent(what: string, after: number, isSo: (event: HaEvent) => boolean): Promise<void> {
    await until(`${what} on ${this.name}`, STEP_MS, async () => {
      const events = await this.events().catch(() => []);
      return events.some((event) => event.sequence > after && isSo(event));
    });
  }

  async events(): Promise<HaEvent[]> {
    return this.ask(async (client) => {
      const list: HaEvent[] = [];
      for await (const event of client.events({ follow: false })) list.push(event);
      return list;
    });
  }

  /** Number of its daemon's newest event. */
  async newest(): Promise<number> {
    return (await this.events()).at(-1)?.sequence ?? 0;
  }

  /** Every process that this host starts from now on, and its daemon, see an empty folder there. */
  async hideFolder(folder: string): Promise<void> {
    await run('nsenter', ['-t', String(this.daemonPid), '-m', 'mount', '-t', 'tmpfs', 'colo-lab', folder]);
  }

  async showFolder(folder: string): Promise<void> {
    await run('nsenter', ['-t', String(this.daemonPid), '-m', 'umount', '-l', folder]);
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
  readonly #mute: { readonly fromMs: number; readonly toMs: number }[] = [];

  private constructor(lab: Lab, hosts: readonly ClusterHost[], folder: string) {
    this.lab = lab;
    this.hosts = hosts;
    this.folder = folder;
  }

  /** Daemons, and nothing else yet. On a failure their logs are printed. */
  static async start(t: TestContext, options: ClusterOptions): Promise<Cluster> {
    // It goes first, and with it whoever uses the folder.
    const lab = await Lab.make(t, options);
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-ha-'));
    const hosts: ClusterHost[] = [];
    t.after(async () => {
      for (const host of hosts) await host.unmount();
      await rm(folder, { recursive: true, force: true });
    });
    const arbiter = options.hasArbiter ? startEtcd(lab, folder) : await makeArbiterFolder(folder);
    for (const name of options.hosts) {
      const host = new ClusterHost(lab, name, folder, arbiter, options);
      await host.prepare();
      hosts.push(host);
    }
    const cluster = new Cluster(lab, hosts, folder);
    t.after(() => Promise.all(hosts.map((host) => host.close())));
    await Promise.all(hosts.map((host) => host.start()));
    for (const host of hosts) {
      await until(`${host.name} knows all hosts`, STEP_MS, async () => {
        // An etcd that has just been started may not have elected itself.
        const known = await host.ask((client) => client.hosts()).catch(() => []);
        return known.filter(({ isAlive }) => isAlive).length === hosts.length;
      });
    }
    return cluster;
  }

  /** Where the arbiter is kept that is a folder. */
  get arbiterFolder(): string {
    return path.join(this.folder, ARBITER);
  }

  /** Nobody may speak for the guest while `act` is under way; judged by the capture, in the end. */
  async whileMute(act: () => Promise<void>): Promise<void> {
    const fromMs = Date.now();
    await act();
    this.#mute.push({ fromMs, toMs: Date.now() });
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
    // On a busy machine a registry that is a folder may not answer in time.
    await until('the VM is wanted', STEP_MS, () =>
      this.hosts[0]!.ask((client) => client.up(spec), STEP_MS).then(
        () => true,
        () => false,
      ),
    );
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
      this.hosts.map((host) => host.ask((client) => client.vm(VM), VIEW_MS).catch(() => null)),
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
      all.push(...(await host.events().catch(() => [])));
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
    const { turns: spoken, violations } = oneSpeaker(frames, MAC, [this.#first, ...turns]);
    const early = this.#mute.flatMap(({ fromMs, toMs }) => spokenIn(frames, MAC, fromMs, toMs));
    return { report, verdict: { turns: spoken, violations: [...violations, ...early] } };
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

const ARBITER = 'arbiter';

async function makeArbiterFolder(folder: string): Promise<string> {
  const directory = path.join(folder, ARBITER);
  await mkdir(directory);
  const arbiter = new FileArbiter(directory);
  await arbiter.prepare();
  await arbiter.close();
  return `{ file: ${directory} }`;
}

/** On the pair's network; hosts ask again until it is there. */
function startEtcd(lab: Lab, folder: string): string {
  const url = `http://${lab.address('arbiter', 'pair')}:2379`;
  const peer = 'http://127.0.0.1:2380';
  const words = [
    ...['--name', 'one', '--data-dir', path.join(folder, 'etcd'), '--log-level', 'error'],
    ...['--listen-client-urls', url, '--advertise-client-urls', url],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
    ...['--initial-cluster', `one=${peer}`],
  ];
  lab.spawn('arbiter', 'etcd', words, { stdio: ['ignore', 'ignore', 'inherit'] });
  return `{ etcd: { endpoints: ['${url}'] } }`;
}

async function until(what: string, ms: number, isSo: () => Promise<boolean>): Promise<void> {
  const look = async (): Promise<void> => {
    while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 100));
  };
  await withDeadline(look(), ms, what);
}
