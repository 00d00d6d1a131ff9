/**
 * How often a protected pair has to checkpoint, and why: each load on the same guest first alone, then as a pair, with
 * the longest time between two checkpoints so large that what is counted are differences. Prints figures; asserts
 * nothing. The pair is two processes of the built program on this machine, with the embedded engine.
 *
 *   npm run build && node --import tsx bench/checkpoints.ts GUEST.qcow2 [LOAD...]
 *
 * COLO_BENCH_BRIDGE=1 puts the guest on a bridge of this host in place of the switch, so that Linux's own TCP with its
 * time stamps and selective acknowledgments is the client; run it as root under
 * `unshare -n sh -c 'ip link set lo up; …'`. COLO_BENCH_SCALE=0.1 makes it shorter, COLO_BENCH_SHOW=10
 * prints that many requests of each load one by one, COLO_BENCH_DUMP=DIR keeps
 * what each copy heard and said, COLO_BENCH_SHARE=N sets x-mismatch-run-share.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { freePorts } from '../src/demo/free-ports.ts';
import { waitForGuest } from '../src/demo/guest-ready.ts';
import {
  createSecondaryDisks,
  demoSpec,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from '../src/demo/hosts.ts';
import type { DemoMachine } from '../src/demo/hosts.ts';
import { HOSTS, pairLinks, protect } from '../src/demo/pair.ts';
import { quietTeller } from '../src/demo/report.ts';
import { VmProcess } from '../src/demo/vm-process.ts';
import { addPrimaryChardevs } from '../src/ha/procedure.ts';
import { startSwitch } from '../src/switch/index.ts';
import {
  BODY_WITH_TIME,
  DIFFERENT_BODY,
  RANDOM_BODY,
  download,
  guestRuns,
  httpKeepAlive,
  httpNew,
  typing,
  upload,
} from './loads.ts';
import type { GuestPort, Load } from './loads.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const SCALE = Number(process.env['COLO_BENCH_SCALE'] ?? 1);
const SHOW = Number(process.env['COLO_BENCH_SHOW'] ?? 0);
const SHARE = process.env['COLO_BENCH_SHARE'];
const DUMP = process.env['COLO_BENCH_DUMP'];
const DELAY_MS = 20_000;
const MEMORY_MIB = 128;
const SERVICES = { http: 80, discard: 9, session: 7001 } as const;

const [image, ...chosen] = process.argv.slice(2);
if (image === undefined) throw new Error('usage: bench/checkpoints.ts GUEST.qcow2 [LOAD...]');
process.env['COLO_PROGRAM'] ??= fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
// The comparer names its reasons at this level.
process.env['COLO_LOG'] = 'debug';

const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-bench-'));
const machine: DemoMachine = { memoryMiB: MEMORY_MIB, switchPath: path.join(folder, 'switch.sock') };
/** On a bridge with the guest, so that this host's own TCP is the client; else behind the switch's NAT. */
const isBridged = process.env['COLO_BENCH_BRIDGE'] !== undefined;
const network = isBridged ? await bridge() : await nat();
const { http, discard, session } = network.services;

const serial = path.join(folder, 'serial.sock');
let isProtected = false;
const count = (full: number): number => Math.max(1, Math.round(full * SCALE));
/** In units of 1,000 requests, or of 100 MiB. */
const LOADS: Record<string, { per: string; run: () => Promise<Load>; units: (load: Load) => number }> = {
  'keep-alive, 1 connection': requests(() => httpKeepAlive(http, count(1000), 1)),
  'keep-alive, 10 connections': requests(() => httpKeepAlive(http, count(1000), 10)),
  'keep-alive, page with the time': requests(() => httpKeepAlive(http, count(1000), 1, BODY_WITH_TIME)),
  'random, 1 connection': requests(() => httpKeepAlive(http, count(300), 1, RANDOM_BODY)),
  'random, 10 connections': requests(() => httpKeepAlive(http, count(300), 10, RANDOM_BODY)),
  'different, 1 connection': requests(() => httpKeepAlive(http, count(300), 1, DIFFERENT_BODY)),
  'different, 10 connections': requests(() => httpKeepAlive(http, count(300), 10, DIFFERENT_BODY)),
  'new connections': requests(() => httpNew(http, count(1000))),
  typing: requests(() => typing(session, count(1000))),
  'guest connects': requests(() => inGuest('wget -qO /dev/null $HOST/', 100)),
  'guest asks for a lease': requests(() => inGuest('udhcpc -fqni eth0 -s /bin/true >/dev/null 2>&1', 30)),
  'guest asks for a name': requests(() => inGuest('timeout 1 nslookup a.test 10.0.2.3 >/dev/null 2>&1', 30)),
  download: stream(() => download(http, count(16 * MIB))),
  upload: stream(() => upload(discard, count(16 * MIB))),
};

interface Network {
  readonly services: Record<keyof typeof SERVICES, GuestPort>;
  /** Makes the command line of a VM with that tap device of what it is for a VM at the switch. */
  edit(tap: string): (word: string) => string;
  close(): Promise<void>;
}

async function nat(): Promise<Network> {
  const [http, discard, session] = (await freePorts(3, ['127.0.0.1'])) as [number, number, number];
  const ports = { http, discard, session };
  const names = Object.keys(SERVICES) as (keyof typeof SERVICES)[];
  const running = await startSwitch({
    listen: [`unix:${machine.switchPath}`],
    nat: { hostForwards: names.map((name) => `tcp:127.0.0.1:${ports[name]}-10.0.2.15:${SERVICES[name]}`) },
  });
  return {
    services: servicesAt('127.0.0.1', ports),
    edit: () => (word) => word,
    close: () => running.close(),
  };
}

/** Needs root, and is best run in a network namespace of its own: it takes 10.0.2.0/24. */
async function bridge(): Promise<Network> {
  const ip = (line: string): Promise<unknown> => run('ip', line.split(' '));
  await ip('link add colo-b type bridge');
  for (const tap of ['colo-p', 'colo-s']) {
    await ip(`tuntap add dev ${tap} mode tap`);
    await ip(`link set ${tap} master colo-b up`);
  }
  await ip('addr add 10.0.2.2/24 dev colo-b');
  await ip('link set colo-b up');
  return {
    services: servicesAt('10.0.2.15', SERVICES),
    edit: (tap) => (word) =>
      word.startsWith('stream,') ? `tap,id=hn0,ifname=${tap},script=no,downscript=no,vhost=off` : word,
    close: async () => {
      for (const device of ['colo-b', 'colo-p', 'colo-s']) await ip(`link del ${device}`);
    },
  };
}

function servicesAt(host: string, ports: Record<keyof typeof SERVICES, number>): Network['services'] {
  const { http, discard, session } = ports;
  return { http: { host, port: http }, discard: { host, port: discard }, session: { host, port: session } };
}

function inGuest(command: string, times: number): Promise<Load> {
  const settle = async (): Promise<void> => {
    if (isProtected) await checkpointTaken(vms[0]!);
  };
  return guestRuns(serial, command, count(times), settle);
}

interface Stats {
  readonly count: number;
  readonly 'by-cause': Record<string, number>;
  readonly records: readonly { sequence: number; pauseMs: number; heldMs: number }[];
}

const vms: VmProcess[] = [];
let unread = '';
const reasons: { cause: string; flow: string }[] = [];
const cpu = os.cpus()[0]?.model ?? 'unknown CPU';
console.log(
  `guest of ${MEMORY_MIB} MiB, one vCPU; ${os.cpus().length} × ${cpu}; Node ${process.version}; load ${os.loadavg()[0]!.toFixed(1)}`,
);
try {
  const disk = path.join(folder, 'primary.qcow2');
  await run('qemu-img', ['convert', '-O', 'qcow2', image, disk]);
  const sizeBytes = await imageSize(disk);
  const primary = await start(
    'primary',
    HOSTS[0],
    [
      ...firstPrimaryArguments(machine, disk).map(network.edit('colo-p')),
      '-serial',
      `unix:${serial},server=on,wait=off`,
    ],
    noteReasons,
  );
  console.log('booting');
  await waitForGuest(primary.qmp, session.port, 300_000, quietTeller, undefined, session.host);
  const names = Object.keys(LOADS).filter((name) => chosen.length === 0 || chosen.includes(name));
  await httpKeepAlive(http, 50, 1);
  const alone = new Map<string, Load>();
  for (const name of names) {
    const load = await LOADS[name]!.run();
    alone.set(name, load);
    console.log(`unprotected, ${name}: ${speed(load)}`);
  }

  const at = await pairLinks(primary.host);
  await addPrimaryChardevs(primary.qmp, demoSpec(machine), at);
  const disks = await createSecondaryDisks(path.join(folder, 'secondary'), sizeBytes);
  const secondary = await start(
    'secondary',
    at.secondaryHost,
    secondaryArguments(machine, disks, at).map(network.edit('colo-s')),
  );
  await protect(primary, secondary, demoSpec(machine), at, quietTeller);
  isProtected = true;
  for (const name of names) {
    const share = SHARE === undefined ? {} : { 'x-mismatch-run-share': Number(SHARE) };
    await primary.qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': DELAY_MS, ...share });
    await checkpointTaken(primary);
    await report(primary, name, alone.get(name)!);
  }
} finally {
  for (const vm of vms) await vm.kill();
  await network.close();
  await rm(folder, { recursive: true, force: true });
}

async function report(primary: VmProcess, name: string, alone: Load): Promise<void> {
  const { per, run, units } = LOADS[name]!;
  const before = await stats(primary);
  reasons.length = 0;
  const load = await run();
  const after = await stats(primary);
  const taken = after['by-cause']['mismatch']! - before['by-cause']['mismatch']!;
  const others = after.count - before.count - taken;
  const records = after.records.filter(({ sequence }) => sequence > before.count);
  const sum = (key: 'pauseMs' | 'heldMs'): number => records.reduce((ms, record) => ms + record[key], 0);
  console.log(
    `\n${name}: ${(taken / units(load)).toFixed(1)} checkpoints per ${per} (${taken}, and ${others} by timer)`,
  );
  console.log(`  protected    ${speed(load)}`);
  console.log(`  unprotected  ${speed(alone)}`);
  console.log(`  ratio        ${(alone.seconds / load.seconds).toFixed(2)} of the unprotected speed`);
  if (records.length > 0) {
    console.log(
      `  of ${(load.seconds * 1000).toFixed(0)} ms the guest stood still ${sum('pauseMs').toFixed(0)} ms; a checkpoint takes ${(sum('heldMs') / records.length).toFixed(0)} ms`,
    );
  }
  const causes = new Map<string, number>();
  for (const { cause, flow } of reasons) {
    const what = `${cause} ${flow.replace(/:\d{5}\b/g, ':*')}`;
    causes.set(what, (causes.get(what) ?? 0) + 1);
  }
  for (const [what, times] of [...causes].sort((a, b) => b[1] - a[1])) console.log(`  ${times} × ${what}`);
  for (const { cause, flow } of reasons.slice(0, SHOW)) console.log(`    ${cause} ${flow}`);
}

function speed({ requests, bytes, seconds, latenciesMs }: Load): string {
  if (requests === 1) return `${(bytes / MIB / seconds).toFixed(2)} MiB/s`;
  if (latenciesMs.length === 0) return `${(requests / seconds).toFixed(1)} times/s`;
  const sorted = [...latenciesMs].sort((a, b) => a - b);
  const at = (share: number): string => sorted[Math.floor(share * (sorted.length - 1))]!.toFixed(1);
  return `${(requests / seconds).toFixed(1)} requests/s, latency median ${at(0.5)} ms, 99 % ${at(0.99)} ms, max ${at(1)} ms`;
}

function requests(run: () => Promise<Load>) {
  return { per: '1,000 requests', run, units: (load: Load) => load.requests / 1000 };
}

function stream(run: () => Promise<Load>) {
  return { per: '100 MiB', run, units: (load: Load) => load.bytes / MIB / 100 };
}

/** The comparer's log lines, one JSON object each; the last of `lines` is not whole yet. */
function noteReasons(chunk: string): void {
  const lines = (unread + chunk).split('\n');
  unread = lines.pop()!;
  for (const line of lines) {
    if (!line.includes('asks for a checkpoint')) continue;
    const { cause, flow } = JSON.parse(line) as { cause: string; flow: string };
    reasons.push({ cause, flow });
  }
}

async function start(
  name: string,
  host: string,
  args: readonly string[],
  onStderr: (chunk: string) => void = () => undefined,
): Promise<VmProcess> {
  const dump =
    DUMP === undefined ? [] : ['-object', `filter-dump,id=dump,netdev=hn0,file=${DUMP}/${name}.pcap`];
  const vm = await VmProcess.start(name, host, folder, [...args, ...dump], { onStderr });
  vms.push(vm);
  return vm;
}

async function stats(vm: VmProcess): Promise<Stats> {
  return (await vm.qmp.execute('query-colo-checkpoints')) as Stats;
}

async function checkpointTaken(vm: VmProcess): Promise<void> {
  const { count: before } = await stats(vm);
  await vm.qmp.execute('x-colo-checkpoint');
  while ((await stats(vm)).count === before) await new Promise((resolve) => setTimeout(resolve, 20));
}
