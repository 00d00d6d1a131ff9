/**
 * Simulated hosts and VMs on a real etcd: comes up, stands for a while, loses a rack, is whole again. Measures; the caller
 * prints or asserts. Everything runs on this machine, so that a host's figures (requests, bytes) say more than times do.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../../src/base/errors.ts';
import { chooseHome, type PlannedCopy } from '../../src/ha/placement.ts';
import { EtcdRegistry } from '../../src/ha/registry/etcd-registry.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import { EtcdCluster } from '../../test/helpers/etcd.ts';
import { CANDIDATES } from './host.ts';
import { nowMs, sleep, type Load, type SimOptions, type ToMain, type ToWorker } from './messages.ts';

/** An etcd whose processor is shared with a thousand hosts is not to lose its leader because of that. */
const SLOW_MACHINE = ['--heartbeat-interval', '250', '--election-timeout', '2500'];
const KEEP_FEW_REVISIONS = ['--auto-compaction-mode', 'revision', '--auto-compaction-retention', '20000'];
const UPS_AT_ONCE = 32;
const PATIENCE_MS = 600_000;

export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Per second, of the whole cluster unless said otherwise. */
export interface Rates {
  readonly seconds: number;
  readonly requests: number;
  readonly bytesOut: number;
  readonly bytesIn: number;
  readonly hints: number;
  /** Of one processor, percent. */
  readonly etcdCpu: number;
  readonly hostsCpu: number;
  readonly etcdPuts: number;
  /** Events that etcd has sent to watchers. */
  readonly etcdEvents: number;
}

export interface Report {
  readonly upMs: number;
  readonly isAllProtected: boolean;
  readonly up: Rates;
  readonly steady: Rates;
  readonly loss: Rates;
  readonly lostHosts: number;
  readonly lostPrimaries: number;
  readonly lostSecondaries: number;
  /** From the loss: the former secondary is heard; the former primary is heard alone. */
  readonly heardSecondary: Percentiles;
  readonly heardPrimary: Percentiles;
  readonly protectedAgain: Percentiles;
  /** The same without the drawn time of the resync. */
  readonly protectedAgainLessResync: Percentiles;
  readonly neverHeard: number;
  readonly neverProtected: number;
  readonly etcdDbBytes: number;
  readonly etcdRssBytes: number;
  readonly watchers: number;
  readonly failures: number;
  readonly troubles: readonly string[];
}

interface Snapshot extends Load {
  readonly atMs: number;
  readonly etcdCpuMs: number;
  readonly puts: number;
  readonly events: number;
  readonly watchers: number;
}

export async function simulate(
  options: SimOptions,
  say: (line: string) => void = () => undefined,
): Promise<Report> {
  const cluster = await EtcdCluster.start(options.members, undefined, [
    ...SLOW_MACHINE,
    ...KEEP_FEW_REVISIONS,
  ]);
  const simulation = new Simulation(options, cluster, say);
  try {
    return await simulation.run();
  } finally {
    await simulation.stop();
    await cluster.remove();
  }
}

class Simulation {
  readonly #options: SimOptions;
  readonly #cluster: EtcdCluster;
  readonly #say: (line: string) => void;
  readonly #workers: ChildProcess[] = [];
  readonly #registry: EtcdRegistry;
  readonly #primaries = new Map<string, number>();
  readonly #heard = new Map<string, { readonly host: number; readonly atMs: number }>();
  readonly #again = new Map<string, { readonly atMs: number; readonly resyncMs: number }>();
  readonly #unprotected = new Set<string>();
  readonly #troubles: string[] = [];
  /** Persons who wait for their VM's protection. */
  readonly #awaited = new Map<string, () => void>();
  #loads: Load[] = [];
  #started = 0;
  #lossAtMs = Infinity;
  #wake: () => void = () => undefined;

  constructor(options: SimOptions, cluster: EtcdCluster, say: (line: string) => void) {
    this.#options = options;
    this.#cluster = cluster;
    this.#say = say;
    this.#registry = new EtcdRegistry({
      endpoints: cluster.endpoints,
      deadlineMs: 60_000,
      attemptMs: 20_000,
    });
  }

  async run(): Promise<Report> {
    const { hosts, vms, steadySeconds, rackSize } = this.#options;
    const begin = await this.#startHosts();
    this.#say(`${hosts} hosts are registered`);
    const upAt = nowMs();
    const ups = this.#up();
    const isAllProtected = await this.#until(() => this.#primaries.size === vms);
    if (isAllProtected) await ups;
    const up = await this.#snapshot();
    this.#say(`${this.#primaries.size} VMs are protected, ${seconds(nowMs() - upAt)} s after the first up`);
    await sleep(steadySeconds * 1000);
    const steady = await this.#snapshot();
    const lost = Array.from({ length: rackSize }, (_, at) => at);
    this.#say(`rack r0 is lost: ${lost.length} hosts`);
    const lostPrimaries = [...this.#primaries].filter(([, host]) => host < rackSize).map(([vm]) => vm);
    this.#lossAtMs = nowMs();
    this.#sendAll({ type: 'kill', hosts: lost });
    // The secondaries' loss is told by the primaries' hosts, at once.
    await sleep(1_000);
    const lostSecondaries = [...this.#unprotected];
    const concerned = [...lostPrimaries, ...lostSecondaries];
    await this.#until(() => concerned.every((vm) => this.#again.has(vm)));
    const after = await this.#snapshot();
    const { dbBytes, rssBytes } = await this.#sizes();
    const since = (found: { readonly atMs: number } | undefined): number[] =>
      found ? [found.atMs - this.#lossAtMs] : [];
    const again = concerned.flatMap((vm) => this.#again.get(vm) ?? []);
    return {
      upMs: up.atMs - upAt,
      isAllProtected,
      up: rates(begin, up),
      steady: rates(up, steady),
      loss: rates(steady, after),
      lostHosts: lost.length,
      lostPrimaries: lostPrimaries.length,
      lostSecondaries: lostSecondaries.length,
      heardSecondary: percentiles(lostPrimaries.flatMap((vm) => since(this.#heard.get(vm)))),
      heardPrimary: percentiles(lostSecondaries.flatMap((vm) => since(this.#heard.get(vm)))),
      protectedAgain: percentiles(again.flatMap(since)),
      protectedAgainLessResync: percentiles(
        again.map(({ atMs, resyncMs }) => atMs - this.#lossAtMs - resyncMs),
      ),
      neverHeard: concerned.filter((vm) => !this.#heard.has(vm)).length,
      neverProtected: concerned.filter((vm) => !this.#again.has(vm)).length,
      etcdDbBytes: dbBytes,
      etcdRssBytes: rssBytes,
      watchers: after.watchers,
      failures: after.failures,
      troubles: this.#troubles,
    };
  }

  async stop(): Promise<void> {
    await this.#registry.close();
    for (const worker of this.#workers) {
      if (worker.exitCode !== null || worker.signalCode !== null) continue;
      const ended = once(worker, 'exit');
      worker.kill('SIGKILL');
      await ended;
    }
  }

  async #startHosts(): Promise<Snapshot> {
    const file = fileURLToPath(new URL('./worker.ts', import.meta.url));
    for (let at = 0; at < this.#options.workers; at++) {
      const worker = fork(file, { execArgv: ['--import', import.meta.resolve('tsx')] });
      worker.on('message', (message: ToMain) => this.#receive(message));
      this.#workers.push(worker);
      const { endpoints } = this.#cluster;
      worker.send({ type: 'start', worker: at, options: this.#options, endpoints } satisfies ToWorker);
    }
    await this.#until(() => this.#started === this.#options.workers);
    return this.#snapshot();
  }

  #receive(message: ToMain): void {
    switch (message.type) {
      case 'started':
        this.#started++;
        break;
      case 'peer':
        this.#workers[message.to % this.#workers.length]!.send(message);
        return;
      case 'measured':
        this.#loads.push(message.load);
        break;
      case 'trouble':
        this.#troubles.push(message.text);
        this.#say(`trouble: ${message.text}`);
        return;
      case 'told':
        this.#note(message);
    }
    this.#wake();
  }

  #note({ vm, host, what, atMs, resyncMs }: Extract<ToMain, { type: 'told' }>): void {
    if (what === 'protected') {
      this.#primaries.set(vm, host);
      this.#awaited.get(vm)?.();
      this.#awaited.delete(vm);
    }
    if (atMs < this.#lossAtMs) return;
    if (what === 'unprotected') this.#unprotected.add(vm);
    if (what === 'speaks' && !this.#heard.has(vm)) this.#heard.set(vm, { host, atMs });
    if (what === 'protected' && !this.#again.has(vm)) this.#again.set(vm, { atMs, resyncMs });
  }

  /** As so many persons would: a home by chance among those with room, the entry, the next when this one is protected. */
  async #up(): Promise<void> {
    const { vms, vmMemoryMiB } = this.#options;
    const planned: PlannedCopy[] = [];
    let next = 0;
    const person = async (): Promise<void> => {
      for (let at = next++; at < vms; at = next++) {
        const spec = specOf(`vm${String(at).padStart(5, '0')}`, vmMemoryMiB);
        while (!(await this.#upOne(spec, planned))) await sleep(1_000);
        if (!this.#primaries.has(spec.name)) {
          await new Promise<void>((resolve) => this.#awaited.set(spec.name, resolve));
        }
      }
    };
    await Promise.all(Array.from({ length: UPS_AT_ONCE }, person));
    this.#say(`${vms} VMs are asked for`);
  }

  async #upOne(spec: VmSpec, planned: PlannedCopy[]): Promise<boolean> {
    try {
      const hosts = await this.#registry.someHosts(CANDIDATES);
      const { host: home, why } = chooseHome(spec, hosts, planned);
      if (home === null) throw new Error(`no home for ${spec.name}: ${why.join('; ')}`);
      planned.push({ host: home, memoryMiB: spec.memoryMiB });
      if (planned.length > CANDIDATES * UPS_AT_ONCE) planned.splice(0, UPS_AT_ONCE);
      await this.#registry.putEntry({ version: 1, spec, isWanted: true, isPaused: false, home }, null);
      return true;
    } catch (error) {
      this.#say(`trouble: ${messageOf(error)}`);
      return false;
    }
  }

  async #until(isSo: () => boolean): Promise<boolean> {
    const until = nowMs() + PATIENCE_MS;
    for (let said = nowMs(); !isSo();) {
      if (nowMs() > until) return false;
      if (nowMs() - said > 15_000) {
        said = nowMs();
        this.#say(`… ${this.#primaries.size} protected, ${this.#again.size} of those lost again`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 500);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return true;
  }

  #sendAll(message: ToWorker): void {
    for (const worker of this.#workers) worker.send(message);
  }

  async #snapshot(): Promise<Snapshot> {
    this.#loads = [];
    this.#sendAll({ type: 'measure' });
    await this.#until(() => this.#loads.length === this.#workers.length);
    const sum = (of: (load: Load) => number): number => this.#loads.reduce((all, load) => all + of(load), 0);
    const metrics = await this.#metrics();
    return {
      requests: sum(({ requests }) => requests),
      bytesOut: sum(({ bytesOut }) => bytesOut),
      bytesIn: sum(({ bytesIn }) => bytesIn),
      hints: sum(({ hints }) => hints),
      failures: sum(({ failures }) => failures),
      cpuMs: sum(({ cpuMs }) => cpuMs),
      atMs: nowMs(),
      etcdCpuMs: this.#cluster.pids.reduce((all, pid) => all + cpuMsOf(pid), 0),
      // Every member carries out every put; watchers are on one.
      puts: metrics('etcd_debugging_mvcc_put_total') / this.#options.members,
      events: metrics('etcd_debugging_mvcc_events_total'),
      watchers: metrics('etcd_debugging_mvcc_watcher_total'),
    };
  }

  async #metrics(): Promise<(name: string) => number> {
    const texts = await Promise.all(
      this.#cluster.endpoints.map(async (endpoint) => (await fetch(`${endpoint}/metrics`)).text()),
    );
    return (name) =>
      texts.reduce((all, text) => all + Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0), 0);
  }

  async #sizes(): Promise<{ dbBytes: number; rssBytes: number }> {
    const metrics = await this.#metrics();
    const dbBytes = metrics('etcd_mvcc_db_total_size_in_bytes') / this.#options.members;
    const rssBytes = Math.max(...this.#cluster.pids.map(rssOf));
    return { dbBytes, rssBytes };
  }
}

function rates(from: Snapshot, to: Snapshot): Rates {
  const s = (to.atMs - from.atMs) / 1000;
  return {
    seconds: s,
    requests: (to.requests - from.requests) / s,
    bytesOut: (to.bytesOut - from.bytesOut) / s,
    bytesIn: (to.bytesIn - from.bytesIn) / s,
    hints: (to.hints - from.hints) / s,
    etcdCpu: (to.etcdCpuMs - from.etcdCpuMs) / s / 10,
    hostsCpu: (to.cpuMs - from.cpuMs) / s / 10,
    etcdPuts: (to.puts - from.puts) / s,
    etcdEvents: (to.events - from.events) / s,
  };
}

function percentiles(values: readonly number[]): Percentiles {
  const sorted = values.toSorted((one, other) => one - other);
  const at = (share: number): number =>
    sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) };
}

/** proc(5): utime and stime, in clock ticks of 10 ms. */
function cpuMsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

function rssOf(pid: number): number {
  return 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}

/** Like one that a person would write: two disks, one NIC. */
function specOf(name: string, memoryMiB: number): VmSpec {
  return {
    version: 1,
    name,
    engine: 'kvm',
    cpus: 2,
    memoryMiB,
    disks: [
      { id: 'disk0', image: '/srv/images/debian-12.qcow2', interface: 'virtio' },
      { id: 'disk1', sizeBytes: 20 * 1024 ** 3, interface: 'virtio' },
    ],
    nics: [
      {
        id: 'nic0',
        mac: '52:54:00:12:34:56',
        model: 'virtio-net-pci',
        edge: { kind: 'bridge', bridge: 'br0' },
      },
    ],
    hosts: [],
    checkpoint: { maxDelayMs: 20_000 },
    heartbeat: { intervalMs: 100, patienceMs: 400, linkPatienceMs: 3_000 },
    resync: { bytesPerSecond: 100 * 1024 ** 2 },
    options: [],
  };
}
