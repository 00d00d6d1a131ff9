/**
 * What protection costs and how fast a copy takes over, with a real guest on the embedded engine: pause and load of an
 * idle guest's checkpoints, failover as a client on an open connection sees it, monitor latency while the guest burns
 * CPU, memory of the processes. Prints figures with their conditions; asserts nothing.
 *
 *   node --import tsx bench/pair.ts GUEST.qcow2 [MEMORY_MIB]
 */
import { copyFile, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
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
import { Workload } from '../src/demo/workload.ts';
import { addPrimaryChardevs, failoverSecondary } from '../src/ha/procedure.ts';
import type { QmpClient } from '../src/qmp/client.ts';
import { startSwitch } from '../src/switch/index.ts';

const CHECKPOINTS = Number(process.env['COLO_BENCH_CHECKPOINTS'] ?? 40);
const FAILOVERS = Number(process.env['COLO_BENCH_FAILOVERS'] ?? 5);
const MIB = 1024 * 1024;

interface Records {
  readonly records: {
    readonly pauseMs: number;
    readonly heldMs: number;
    readonly totalMs: number;
    readonly pages: number;
    readonly bytes: number;
  }[];
  readonly 'loads-ms': number[];
}

const [image, memory = '128'] = process.argv.slice(2);
if (image === undefined) throw new Error('usage: bench/pair.ts GUEST.qcow2 [MEMORY_MIB]');
// The built program: a loader for TypeScript would be measured too.
process.env['COLO_PROGRAM'] = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-bench-'));
const vms: VmProcess[] = [];
const [sessionPort, ledgerPort] = (await freePorts(2, ['127.0.0.1'])) as [number, number];
const machine: DemoMachine = { memoryMiB: Number(memory), switchPath: path.join(folder, 'switch.sock') };
const network = await startSwitch({
  listen: [`unix:${machine.switchPath}`],
  nat: {
    hostForwards: [
      `tcp:127.0.0.1:${sessionPort}-10.0.2.15:7001`,
      `tcp:127.0.0.1:${ledgerPort}-10.0.2.15:7000`,
    ],
  },
});
const spec = demoSpec(machine);
const cpu = os.cpus()[0]?.model ?? 'unknown CPU';
console.log(
  `guest of ${memory} MiB, one vCPU; ${os.cpus().length} × ${cpu}; Node ${process.version}; load ${os.loadavg()[0]!.toFixed(1)}`,
);

try {
  await mkdir(path.join(folder, 'first'));
  const disk = path.join(folder, 'first', 'disk.qcow2');
  await copyFile(image, disk);
  const sizeBytes = await imageSize(disk);
  const serial = path.join(folder, 'serial.sock');
  let primary = await start('primary', HOSTS[0], [
    ...firstPrimaryArguments(machine, disk),
    '-serial',
    `unix:${serial},server=on,wait=off`,
  ]);
  const booted = performance.now();
  await waitForGuest(primary.qmp, sessionPort, 300_000, quietTeller);
  print('boot to first answer', `${((performance.now() - booted) / 1000).toFixed(1)} s`);

  await burnCpu(serial, async () => {
    print(
      'monitor answer while the guest burns CPU (query-status)',
      spread(await monitorLatency(primary.qmp, 200)),
    );
  });

  let secondary = await newSecondary(primary, 1, sizeBytes);
  await protect(primary, secondary, spec, secondary.at, quietTeller);
  await idleCheckpoints(primary, secondary.vm);

  const workload = new Workload({
    host: '127.0.0.1',
    sessionPort,
    ledgerPort,
    intervalMs: 20,
    patienceMs: 60_000,
  });
  workload.start();
  await workload.firstReplyAfter(0);
  const failovers: number[] = [];
  const commands: number[] = [];
  for (let round = 1; round <= FAILOVERS; round++) {
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const killed = performance.now();
    await primary.kill();
    const answered = workload.firstReplyAfter(killed);
    await failoverSecondary(secondary.vm.qmp, spec);
    commands.push(performance.now() - killed);
    failovers.push((await answered) - killed);
    primary = secondary.vm;
    if (round === FAILOVERS) break;
    secondary = await newSecondary(primary, round + 1, sizeBytes);
    await protect(primary, secondary, spec, secondary.at, quietTeller);
  }
  print(
    'failover: SIGKILL to the first answer on an open connection',
    `${failovers.map((ms) => ms.toFixed(0)).join(', ')} ms`,
  );
  print(
    'of that, until the last command was answered',
    `${commands.map((ms) => ms.toFixed(0)).join(', ')} ms`,
  );
  const report = await workload.stop();
  print(
    'lost while measuring',
    `${report.connectionsLost} connections, ${report.ledgerLinesLost} ledger lines`,
  );
} finally {
  for (const vm of vms) await vm.kill();
  await network.close();
  await rm(folder, { recursive: true, force: true });
}

async function start(name: string, host: string, args: readonly string[]): Promise<VmProcess> {
  const vm = await VmProcess.start(name, host, folder, args);
  vms.push(vm);
  return vm;
}

async function newSecondary(of: VmProcess, round: number, sizeBytes: number) {
  const at = await pairLinks(of.host);
  const disks = await createSecondaryDisks(path.join(folder, `round${round}`), sizeBytes);
  await addPrimaryChardevs(of.qmp, spec, at);
  const vm = await start(`secondary${round}`, at.secondaryHost, secondaryArguments(machine, disks, at));
  return Object.assign(vm, { vm, at });
}

async function idleCheckpoints(primary: VmProcess, secondary: VmProcess): Promise<void> {
  for (let taken = 0; taken < CHECKPOINTS;) {
    await primary.qmp.execute('x-colo-checkpoint');
    await new Promise((resolve) => setTimeout(resolve, 100));
    taken = ((await primary.qmp.execute('query-colo-checkpoints')) as Records).records.length;
  }
  const { records } = (await primary.qmp.execute('query-colo-checkpoints')) as Records;
  const loads = ((await secondary.qmp.execute('query-colo-checkpoints')) as Records)['loads-ms'];
  // The first ones still carry what the boot left behind.
  const settled = records.slice(5);
  print('pause of the primary, idle guest', spread(settled.map(({ pauseMs }) => pauseMs)));
  print('output held for', spread(settled.map(({ heldMs }) => heldMs)));
  print('load on the secondary, idle guest', spread(loads.slice(5)));
  print(
    'pages of a checkpoint',
    spread(
      settled.map(({ pages }) => pages),
      '',
    ),
  );
  for (const [name, vm] of [
    ['primary', primary],
    ['secondary', secondary],
  ] as const) {
    const rss = await residentBytes(vm.pid);
    const bound = Number(memory) * 2.5 + 150;
    print(
      `memory of the ${name}'s process`,
      `${(rss / MIB).toFixed(0)} MiB (guest RAM × 2.5 + 150 = ${bound.toFixed(0)} MiB)`,
    );
  }
}

async function monitorLatency(qmp: QmpClient, count: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const asked = performance.now();
    await qmp.execute('query-status');
    times.push(performance.now() - asked);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return times;
}

/** Starts a busy loop in the guest's shell for the time of `during`. */
async function burnCpu(serial: string, during: () => Promise<void>): Promise<void> {
  const console = net.connect(serial);
  console.resume();
  console.write('\nwhile :; do :; done &\n');
  await new Promise((resolve) => setTimeout(resolve, 2000));
  await during();
  console.write('\nkill $!\n');
  await new Promise((resolve) => setTimeout(resolve, 1000));
  console.destroy();
}

async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}

function spread(values: readonly number[], unit = ' ms'): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): string =>
    (sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN).toFixed(
      unit === '' ? 0 : 1,
    );
  return `median ${at(0.5)}${unit}, 95 % ${at(0.95)}${unit}, max ${at(1)}${unit} (n ${sorted.length})`;
}

function print(what: string, figure: string): void {
  console.log(`${`${what}:`.padEnd(62)} ${figure}`);
}
