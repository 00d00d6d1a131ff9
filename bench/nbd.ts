/**
 * Our NBD server against qemu-nbd in one run: raw files of the same content in the page cache, a unix socket each, the
 * same client (fio's nbd engine, and nbdcopy with its four connections), turn by turn.
 * `./colo` builds first, then `node --import tsx bench/nbd.ts [MiB] [rounds] [tasks]`; needs fio, libnbd-bin, qemu-utils.
 * Prints medians, the ratio ours : qemu-nbd, of which larger is better, and the CPU time of the servers.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const MIB = 1024 * 1024;
const SIZE_MIB = Number(process.argv[2] ?? 512);
const ROUNDS = Number(process.argv[3] ?? 5);
/** Only tasks whose names match. */
const WANTED = new RegExp(process.argv[4] ?? '');
const SECONDS = 2;
const execute = promisify(execFile);

interface Server {
  readonly uri: string;
  readonly child: ChildProcess;
}

interface Task {
  readonly name: string;
  readonly unit: string;
  /** Runs once and tells the rate in units a second. */
  readonly run: (server: Server, source: string) => Promise<number>;
}

async function fio(server: Server, mode: string, bytes: number, depth: number): Promise<number> {
  const { stdout } = await execute('fio', [
    ...['--name=bench', '--ioengine=nbd', `--uri=${server.uri}`, `--rw=${mode}`, `--bs=${bytes}`],
    ...[`--iodepth=${depth}`, `--size=${SIZE_MIB}m`, '--time_based', `--runtime=${SECONDS}`],
    ...['--randrepeat=0', '--output-format=json', '--thread'],
  ]);
  const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: Record<'read' | 'write', { iops: number; bw_bytes: number }>[];
  };
  const side = report.jobs[0]?.[mode.endsWith('read') ? 'read' : 'write'];
  if (!side) throw new Error('fio reported no job');
  return mode.startsWith('rand') ? side.iops : side.bw_bytes / MIB;
}

async function copy(from: string, to: string): Promise<number> {
  const start = performance.now();
  await execute('nbdcopy', ['--allocated', from, to]);
  return (SIZE_MIB * 1000) / (performance.now() - start);
}

const TASKS: readonly Task[] = [
  ...(['read', 'write'] as const).map((mode) => ({
    name: `sequential ${mode}, 1 MiB, depth 8`,
    unit: 'MiB/s',
    run: (server: Server) => fio(server, mode, MIB, 8),
  })),
  { name: 'read all (nbdcopy)', unit: 'MiB/s', run: ({ uri }) => copy(uri, 'null:') },
  { name: 'write all (nbdcopy)', unit: 'MiB/s', run: ({ uri }, source) => copy(source, uri) },
  ...[1, 16, 64].flatMap((depth) =>
    (['randread', 'randwrite'] as const).map((mode) => ({
      name: `${mode === 'randread' ? 'random read' : 'random write'}, 4 KiB, depth ${depth}`,
      unit: 'IOPS',
      run: (server: Server) => fio(server, mode, 4096, depth),
    })),
  ),
];

async function waitForSocket(path: string, child: ChildProcess): Promise<void> {
  for (;;) {
    const socket = connect(path);
    const up = await new Promise<boolean>((resolve) => {
      socket.on('connect', () => resolve(true));
      socket.on('error', () => resolve(false));
    });
    socket.destroy();
    if (up) return;
    if (child.exitCode !== null) throw new Error(`the server for ${path} ended`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** CPU time of a process so far, in milliseconds (Linux man 5 proc, stat fields 14 and 15, in 10 ms). */
async function cpuMs({ pid }: ChildProcess): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

const folder = await mkdtemp(join(tmpdir(), 'nbd-bench-'));
const servers: Server[] = [];
try {
  const start = async (
    name: string,
    tool: string,
    args: (image: string, socket: string) => string[],
  ): Promise<Server> => {
    const [image, socket] = [join(folder, `${name}.raw`), join(folder, `${name}.sock`)];
    const file = await open(image, 'w');
    const block = Buffer.alloc(MIB, 'not zero');
    for (let at = 0; at < SIZE_MIB; at++) await file.write(block);
    await file.close();
    const child = spawn(tool, args(image, socket), { stdio: ['ignore', 'ignore', 'ignore'] });
    const server = { child, uri: `nbd+unix:///?socket=${socket}` };
    servers.push(server);
    await waitForSocket(socket, child);
    return server;
  };
  const main = join(import.meta.dirname, '../dist/cli/main.js');
  const ours = await start('ours', process.execPath, (image, socket) => [
    ...[main, 'nbd', 'serve', image, '--format', 'raw', '--listen', `unix:${socket}`],
  ]);
  const theirs = await start('theirs', 'qemu-nbd', (image, socket) => [
    ...['-f', 'raw', '-t', '-e', '100', '-k', socket, image],
  ]);
  const source = join(folder, 'source.raw');
  await execute('cp', [join(folder, 'ours.raw'), source]);
  const { stdout } = await execute('qemu-nbd', ['--version']);
  console.log(
    `${stdout.split('\n')[0] ?? ''}; Node ${process.version}; ${cpus().length} × ${cpus()[0]?.model ?? '?'}; ` +
      `load ${loadavg()[0]?.toFixed(1) ?? '?'}`,
  );
  console.log(`raw file of ${SIZE_MIB} MiB in the page cache, median of ${ROUNDS}, after one round unseen`);
  for (const { name, unit, run } of TASKS.filter((task) => WANTED.test(task.name))) {
    const rates: [number[], number[]] = [[], []];
    const cpu: [number, number] = [0, 0];
    for (let round = 0; round <= ROUNDS; round++) {
      for (const [side, server] of [ours, theirs].entries()) {
        // What the run before has left for the disk to do is not this one's.
        await execute('sync');
        const before = await cpuMs(server.child);
        const rate = await run(server, source);
        if (round === 0) continue;
        rates[side as 0 | 1].push(rate);
        cpu[side as 0 | 1] += (await cpuMs(server.child)) - before;
      }
    }
    const [mine, peer] = [median(rates[0]), median(rates[1])];
    const figures = `${mine.toFixed(0).padStart(8)} : ${peer.toFixed(0).padStart(8)} ${unit.padEnd(6)}`;
    const cpuText = `CPU ${(cpu[0] / ROUNDS).toFixed(0)} : ${(cpu[1] / ROUNDS).toFixed(0)} ms a run`;
    console.log(`${name.padEnd(34)} ${figures} ratio ${(mine / peer).toFixed(2)}  ${cpuText}`);
  }
} finally {
  for (const { child } of servers) {
    const exited = once(child, 'exit');
    if (child.exitCode === null && child.kill('SIGTERM')) await exited;
  }
  await rm(folder, { recursive: true, force: true });
}
