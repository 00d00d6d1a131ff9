/**
 * What protection costs a guest on a stock QEMU, and beside it QEMU's own COLO with the same guest, disks, switch and
 * clients: pause of the primary while the guest idles and while it dirties 50 MB/s, HTTP requests/s protected ÷
 * unprotected, failover as a client on an open connection sees it. Prints a table; asserts nothing. A step that does not
 * end is printed as that. The guest is the amd64 one of `colo guest`; build first (`npm run build`).
 *
 *   node --import tsx bench/qemu.ts GUEST.raw [--memory 256,1024] [--accel tcg] [--qemu PATH] [--qemu-colo PATH]
 *
 * Pauses are between the primary's events STOP and RESUME, on both.
 */
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { withDeadline } from '../src/base/async.ts';
import { messageOf } from '../src/base/errors.ts';
import { freePorts } from '../src/demo/free-ports.ts';
import { waitForGuest } from '../src/demo/guest-ready.ts';
import {
  createSecondaryDisks,
  demoSpec,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from '../src/demo/hosts.ts';
import { HOSTS, pairLinks } from '../src/demo/pair.ts';
import { stockQemu } from '../src/demo/platform.ts';
import { quietTeller } from '../src/demo/report.ts';
import { VmProcess } from '../src/demo/vm-process.ts';
import { Workload } from '../src/demo/workload.ts';
import {
  addPrimaryChardevs,
  awaitResync,
  exportSecondaryDisks,
  failoverSecondary,
  resumeReplication,
  startResync,
} from '../src/ha/procedure.ts';
import { probeQemu } from '../src/engine/qemu/index.ts';
import { QmpClient } from '../src/qmp/client.ts';
import { startSwitch } from '../src/switch/index.ts';
import { httpKeepAlive } from './loads.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    memory: { type: 'string', default: '256,1024' },
    accel: { type: 'string', default: 'tcg' },
    qemu: { type: 'string', default: 'qemu-system-x86_64' },
    'qemu-colo': { type: 'string' },
  },
});
const [image] = positionals;
if (image === undefined)
  throw new Error('usage: bench/qemu.ts GUEST.raw [--memory 256,1024] [--qemu-colo PATH]');
const accelerator = values.accel === 'kvm' ? 'kvm' : 'tcg';
const CHECKPOINTS = Number(process.env['COLO_BENCH_CHECKPOINTS'] ?? 30);
const REQUESTS = Number(process.env['COLO_BENCH_REQUESTS'] ?? 1000);
const CONNECTIONS = 8;
const BOOT_MS = 300_000;
const STEP_MS = 90_000;
const ALL_MS = 600_000;
const DELAY_MS = 2_000;
// The built program: a loader for TypeScript would be measured too.
process.env['COLO_PROGRAM'] = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const run = promisify(execFile);

/** Two files of random bytes take turns in a third: what is written differs from what was there. */
const DIRTY = `
cd /dev/shm && dd if=/dev/urandom of=a bs=1M count=5 && dd if=/dev/urandom of=b bs=1M count=5
while :; do cat a > c; sleep 0.1; cat b > c; sleep 0.1; done &
`;

/** One side of a pair: `colo vm`, or QEMU itself. */
interface Side {
  readonly qmp: QmpClient;
  kill(): Promise<void>;
}

interface Kind {
  readonly title: string;
  start(name: string, host: string, folder: string, args: readonly string[]): Promise<Side>;
}

type Rows = Map<string, string>;

const ours: Kind = { title: 'colo', start: (...args) => VmProcess.start(...args) };

/**
 * QEMU by its own COLO: the same command line, but for what a version calls otherwise.
 */
async function ownColo(binary: string): Promise<Kind> {
  const { version, major, minor } = await probeQemu(binary);
  const word = major > 9 || (major === 9 && minor >= 2) ? 'reconnect-ms=1000' : 'reconnect=1';
  return {
    title: `QEMU ${version.split(' ', 1)[0] ?? ''}`,
    start: async (name, _host, folder, args) => {
      const socket = path.join(folder, `${name}.qmp`);
      const given = args.map((arg) => arg.replace('reconnect=1', word));
      const child = spawn(
        'setpriv',
        ['--pdeathsig', 'KILL', binary, '-qmp', `unix:${socket},server=on,wait=off`, ...given],
        { stdio: ['ignore', 'ignore', 'inherit'] },
      );
      const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      for (let tries = 0; ; tries++) {
        try {
          const qmp = await QmpClient.connect({ path: socket });
          return {
            qmp,
            kill: async () => {
              child.kill('SIGKILL');
              await exited;
            },
          };
        } catch (error) {
          if (tries > 500 || child.exitCode !== null) throw error;
          await pass(20);
        }
      }
    },
  };
}

const kinds = [ours];
if (values['qemu-colo'] !== undefined) kinds.push(await ownColo(values['qemu-colo']));
console.log(
  `${os.cpus().length} × ${os.cpus()[0]?.model ?? 'unknown CPU'}; -accel ${values.accel}; load ${os.loadavg()[0]!.toFixed(1)}`,
);
for (const memory of values.memory.split(',').map(Number)) {
  const columns = new Map<string, Rows>();
  for (const kind of kinds) {
    const rows: Rows = new Map();
    columns.set(kind.title, rows);
    try {
      await measure(kind, memory, rows);
    } catch (error) {
      rows.set('ended by', messageOf(error));
    }
  }
  console.log(`\n${memory} MiB`);
  for (const row of new Set([...columns.values()].flatMap((rows) => [...rows.keys()]))) {
    const cells = [...columns].map(([title, rows]) => `${title}: ${rows.get(row) ?? '-'}`);
    console.log(`${row.padEnd(44)} ${cells.join('   ')}`);
  }
}
process.exit();

async function measure(kind: Kind, memoryMiB: number, rows: Rows): Promise<void> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-bench-'));
  const [session, ledger, http] = (await freePorts(3, ['127.0.0.1'])) as [number, number, number];
  const switchPath = path.join(folder, 'switch.sock');
  const network = await startSwitch({
    listen: [`unix:${switchPath}`],
    nat: {
      hostForwards: [
        `tcp:127.0.0.1:${session}-10.0.2.15:7001`,
        `tcp:127.0.0.1:${ledger}-10.0.2.15:7000`,
        `tcp:127.0.0.1:${http}-10.0.2.15:80`,
      ],
    },
  });
  const sides: Side[] = [];
  try {
    const work = pair(kind, { memoryMiB, folder, switchPath, session, ledger, http }, rows, sides);
    await withDeadline(work, ALL_MS, 'all of it');
  } finally {
    for (const side of sides) await side.kill();
    await network.close();
    await rm(folder, { recursive: true, force: true });
  }
}

interface Place {
  readonly memoryMiB: number;
  readonly folder: string;
  readonly switchPath: string;
  readonly session: number;
  readonly ledger: number;
  readonly http: number;
}

async function pair(kind: Kind, place: Place, rows: Rows, sides: Side[]): Promise<void> {
  const { folder, memoryMiB, switchPath } = place;
  const stock = stockQemu({ accelerator, vcpus: 1, binary: values.qemu });
  // QEMU's own COLO needs its NIC without what the comparer does not undo; e1000 has none of it.
  const platform = { ...stock, nic: 'e1000', diskInterface: 'ide' } as const;
  const machine = { platform, memoryMiB, switchPath };
  const spec = { ...demoSpec(machine), checkpoint: { maxDelayMs: DELAY_MS } };
  const disk = path.join(folder, 'disk.qcow2');
  await run('qemu-img', ['convert', '-O', 'qcow2', image!, disk]);
  const sizeBytes = await imageSize(disk);
  const shell = path.join(folder, 'serial.sock');
  const serial = ['-serial', `unix:${shell},server=on,wait=off`];
  const started = await kind.start('primary', HOSTS[0], folder, [
    ...firstPrimaryArguments(machine, disk),
    ...serial,
  ]);
  sides.push(started);
  const { qmp } = started;
  await waitForGuest(qmp, place.session, BOOT_MS, quietTeller);
  const at = { host: '127.0.0.1', port: place.http };
  const alone = await httpKeepAlive(at, REQUESTS, CONNECTIONS);
  const perSecond = alone.requests / alone.seconds;
  rows.set('HTTP requests/s unprotected', perSecond.toFixed(0));

  const addresses = await pairLinks(HOSTS[0]);
  const disks = await createSecondaryDisks(path.join(folder, 'second'), sizeBytes);
  await addPrimaryChardevs(qmp, spec, addresses);
  const args = secondaryArguments(machine, disks, addresses);
  const secondary = await kind.start('secondary', addresses.secondaryHost, folder, [
    ...args,
    '-serial',
    'null',
  ]);
  sides.push(secondary);
  await exportSecondaryDisks(secondary.qmp, spec, addresses);
  await startResync(qmp, spec, addresses);
  await awaitResync(qmp, spec);
  const pauses = pausesOf(qmp);
  await setCapabilities(kind, qmp, secondary.qmp);
  await resumeReplication(qmp, spec, addresses);
  await checkpoints(qmp, pauses, 6);

  pauses.length = 0;
  await checkpoints(qmp, pauses, CHECKPOINTS);
  rows.set('pause, idle', spread(pauses));
  const socket = net.connect(shell).resume();
  socket.write(DIRTY);
  await pass(2000);
  pauses.length = 0;
  await checkpoints(qmp, pauses, CHECKPOINTS);
  rows.set('pause, 50 MB/s dirtied', spread(pauses));
  socket.end('\nkill $!\n');
  await pass(1000);

  const guarded = await withDeadline(httpKeepAlive(at, REQUESTS, CONNECTIONS), STEP_MS, 'HTTP, protected');
  rows.set('HTTP protected ÷ unprotected', (guarded.requests / guarded.seconds / perSecond).toFixed(2));

  const workload = new Workload({
    host: '127.0.0.1',
    sessionPort: place.session,
    ledgerPort: place.ledger,
    intervalMs: 20,
    patienceMs: STEP_MS,
  });
  workload.start();
  await withDeadline(workload.firstReplyAfter(0), STEP_MS, 'a client, protected');
  await pass(2000);
  const killed = performance.now();
  await started.kill();
  const answered = workload.firstReplyAfter(killed);
  await failoverSecondary(secondary.qmp, spec);
  rows.set('failover, SIGKILL to the next answer', `${((await answered) - killed).toFixed(0)} ms`);
  const { connectionsLost, ledgerLinesLost } = await workload.stop();
  rows.set('lost', `${connectionsLost} connections, ${ledgerLinesLost} ledger lines`);
}

/**
 * QEMU 11 refuses COLO without the first, and a secondary that was not told of the second takes the stream for that of a
 * plain migration. Ours needs neither.
 */
async function setCapabilities(kind: Kind, ...both: QmpClient[]): Promise<void> {
  if (kind === ours) return;
  const capabilities = ['return-path', 'x-colo'].map((capability) => ({ capability, state: true }));
  for (const qmp of both) await qmp.execute('migrate-set-capabilities', { capabilities });
}

/** Milliseconds from each STOP to the RESUME after it, as they end. */
function pausesOf(qmp: QmpClient): number[] {
  const pauses: number[] = [];
  let stopped: number | null = null;
  qmp.onEvent(({ event, timestamp: { seconds, microseconds } }) => {
    const ms = seconds * 1000 + microseconds / 1000;
    if (event === 'STOP') stopped = ms;
    if (event === 'RESUME' && stopped !== null) {
      pauses.push(ms - stopped);
      stopped = null;
    }
  });
  return pauses;
}

/** Setting the delay asks for a checkpoint at once, with both. */
async function checkpoints(qmp: QmpClient, pauses: number[], count: number): Promise<void> {
  const began = performance.now();
  const target = pauses.length + count;
  while (pauses.length < target) {
    const before = pauses.length;
    await qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': DELAY_MS });
    while (pauses.length === before) {
      if (performance.now() - began > STEP_MS) {
        throw new Error(`${pauses.length} of ${target} checkpoints within ${STEP_MS / 1000} s`);
      }
      await pass(10);
    }
    await pass(200);
  }
}

function spread(ms: readonly number[]): string {
  const sorted = [...ms].sort((a, b) => a - b);
  const at = (share: number): string => (sorted[Math.floor(sorted.length * share)] ?? NaN).toFixed(1);
  return `p50 ${at(0.5)} ms, p90 ${at(0.9)} ms`;
}

function pass(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
