/**
 * Our NBD server against qemu-nbd in one run: the same raw file (in the page cache), the same client tools, a unix
 * socket each. `node --import tsx bench/nbd.ts [MiB]`; needs qemu-utils and libnbd-bin. Prints medians and the ratio
 * ours : qemu-nbd, of which larger is better.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { open, mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { connect } from 'node:net';

const MIB = 1024 * 1024;
const SIZE_MIB = Number(process.argv[2] ?? 256);
const ROUNDS = 3;
const execute = promisify(execFile);

interface Task {
  readonly name: string;
  readonly unit: string;
  /** Work done by one run, in units. */
  readonly amount: number;
  readonly command: (uri: string, image: string) => [string, string[]];
}

const bench = (
  uri: string,
  count: number,
  depth: number,
  bytes: number,
  write: boolean,
): [string, string[]] => {
  const args = ['bench', '-f', 'raw', '-c', String(count), '-d', String(depth), '-s', String(bytes)];
  // A prime step, so that neighbours in time are none in place.
  return ['qemu-img', [...args, '-S', String(bytes * 7), ...(write ? ['-w', '-t', 'writeback'] : []), uri]];
};

const TASKS: readonly Task[] = [
  {
    name: 'read all (nbdcopy)',
    unit: 'MiB/s',
    amount: SIZE_MIB,
    command: (uri) => ['nbdcopy', ['--allocated', uri, 'null:']],
  },
  {
    name: 'write all (nbdcopy)',
    unit: 'MiB/s',
    amount: SIZE_MIB,
    command: (uri, image) => ['nbdcopy', ['--allocated', image, uri]],
  },
  {
    name: 'read 4 KiB, depth 1',
    unit: 'IOPS',
    amount: 8000,
    command: (uri) => bench(uri, 8000, 1, 4096, false),
  },
  {
    name: 'read 4 KiB, depth 16',
    unit: 'IOPS',
    amount: 20_000,
    command: (uri) => bench(uri, 20_000, 16, 4096, false),
  },
  {
    name: 'write 4 KiB, depth 1',
    unit: 'IOPS',
    amount: 8000,
    command: (uri) => bench(uri, 8000, 1, 4096, true),
  },
  {
    name: 'write 4 KiB, depth 16',
    unit: 'IOPS',
    amount: 20_000,
    command: (uri) => bench(uri, 20_000, 16, 4096, true),
  },
  {
    name: 'read 64 KiB, depth 16',
    unit: 'IOPS',
    amount: 4000,
    command: (uri) => bench(uri, 4000, 16, 65536, false),
  },
  {
    name: 'write 64 KiB, depth 16',
    unit: 'IOPS',
    amount: 4000,
    command: (uri) => bench(uri, 4000, 16, 65536, true),
  },
];

/** The wall time of a command in seconds. */
async function time(tool: string, args: string[]): Promise<number> {
  const start = performance.now();
  await execute(tool, args);
  return (performance.now() - start) / 1000;
}

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

const directory = await mkdtemp(join(tmpdir(), 'nbd-bench-'));
const children: ChildProcess[] = [];
try {
  const start = async (
    name: string,
    tool: string,
    args: (image: string, socket: string) => string[],
  ): Promise<string> => {
    const [image, socket] = [join(directory, `${name}.raw`), join(directory, `${name}.sock`)];
    const file = await open(image, 'w');
    const block = Buffer.alloc(MIB, 'not zero');
    for (let at = 0; at < SIZE_MIB; at++) await file.write(block);
    await file.close();
    const child = spawn(tool, args(image, socket), { stdio: ['ignore', 'ignore', 'inherit'] });
    children.push(child);
    await waitForSocket(socket, child);
    return `nbd+unix:///?socket=${socket}`;
  };
  const main = join(import.meta.dirname, '../src/cli/main.ts');
  const ours = await start('ours', process.execPath, (image, socket) => [
    ...['--import', 'tsx', main, 'nbd', 'serve', image, '--format', 'raw', '--listen', `unix:${socket}`],
  ]);
  const theirs = await start('theirs', 'qemu-nbd', (image, socket) => [
    ...['-f', 'raw', '-t', '-e', '100', '-k', socket, image],
  ]);
  const image = join(directory, 'source.raw');
  await execute('cp', [join(directory, 'ours.raw'), image]);
  const { stdout } = await execute('qemu-nbd', ['--version']);
  console.log(
    `${stdout.split('\n')[0] ?? ''}; Node ${process.version}; ${cpus().length} × ${cpus()[0]?.model ?? '?'}`,
  );
  console.log(`raw file of ${SIZE_MIB} MiB in the page cache, median of ${ROUNDS}`);
  for (const { name, unit, amount, command } of TASKS) {
    const rates: Record<string, number[]> = { ours: [], theirs: [] };
    for (let round = 0; round < ROUNDS; round++) {
      rates['ours']?.push(amount / (await time(...command(ours, image))));
      rates['theirs']?.push(amount / (await time(...command(theirs, image))));
    }
    const [mine, peer] = [rates['ours'], rates['theirs']].map(
      (values) => values?.sort((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? NaN,
    ) as [number, number];
    const figures = `${mine.toFixed(0).padStart(8)} : ${peer.toFixed(0).padStart(8)} ${unit.padEnd(6)}`;
    console.log(`${name.padEnd(24)} ${figures} ratio ${(mine / peer).toFixed(2)}`);
  }
} finally {
  for (const child of children) {
    const exited = once(child, 'exit');
    if (child.exitCode === null && child.kill('SIGTERM')) await exited;
  }
  await rm(directory, { recursive: true, force: true });
}
