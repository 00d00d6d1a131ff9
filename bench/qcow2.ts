/**
 * Our qcow2 driver against QEMU's in one run: writes into fresh images, which have to allocate, and over what is there.
 * Ours runs in this process, QEMU's in `qemu-img bench`; the same sizes, steps and depths, the page cache below both.
 * `node --import tsx bench/qcow2.ts [requests] [folder] [tasks]`; needs
 * qemu-utils. Prints medians, the ratio ours : QEMU's (of
 * which larger is better) and the CPU time of one request, threads included, which other load disturbs less.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createQcow2 } from '../src/block/drivers/qcow2/create.ts';
import { BlockGraph } from '../src/block/graph.ts';

const REQUESTS = Number(process.argv[2] ?? 4000);
const ROUNDS = 3;
/** Only tasks whose names match. */
const WANTED = new RegExp(process.argv[4] ?? '');
const CLUSTER = 65536;
const execute = promisify(execFile);

interface Task {
  readonly name: string;
  readonly bytes: number;
  readonly depth: number;
  /** From one request to the next. */
  readonly step: number;
  readonly fresh: boolean;
  /** Above a backing file, of which the rest of each cluster has to be copied. */
  readonly overlay?: boolean;
}

const TASKS: Task[] = [];
for (const fresh of [true, false]) {
  for (const [bytes, step, how] of [
    // A step of a prime number of clusters: each request meets another cluster.
    [4096, CLUSTER * 7, 'scattered'],
    [4096, 4096, 'in a row'],
    [65536, CLUSTER * 7, 'scattered'],
    [65536, 65536, 'in a row'],
  ] as const) {
    for (const depth of [1, 16, 64]) {
      const name = `${fresh ? 'allocate' : 'overwrite'} ${bytes / 1024} KiB ${how}, depth ${depth}`;
      TASKS.push({ name, bytes, depth, step, fresh });
    }
  }
}

for (const depth of [1, 16, 64]) {
  const name = `copy on write 4 KiB, depth ${depth}`;
  TASKS.push({ name, bytes: 4096, depth, step: CLUSTER, fresh: true, overlay: true });
}

interface Figures {
  readonly perSecond: number;
  readonly cpuMicros: number;
}

/** An image of no multiple of 7 clusters, so that the walk meets each cluster before it comes round. */
const imageBytes = ({ bytes, overlay }: Task): number =>
  overlay
    ? (REQUESTS + 1) * CLUSTER
    : (Math.ceil((REQUESTS * bytes) / CLUSTER / 7) * 7 + 7 * REQUESTS + 1) * CLUSTER;

async function ours(image: string, task: Task): Promise<Figures> {
  const graph = new BlockGraph();
  const node = await graph.openImage(image, { format: 'qcow2' });
  const source = Buffer.alloc(task.bytes, 1);
  const size = node.lengthBytes - task.bytes;
  let issued = 0;
  const lane = async (): Promise<void> => {
    while (issued < REQUESTS) await node.write((issued++ * task.step) % size, source);
  };
  const cpu = process.cpuUsage();
  const start = performance.now();
  await Promise.all(Array.from({ length: task.depth }, lane));
  const seconds = (performance.now() - start) / 1000;
  const used = process.cpuUsage(cpu);
  await graph.closeAll();
  return { perSecond: REQUESTS / seconds, cpuMicros: (used.user + used.system) / REQUESTS };
}

async function theirs(image: string, task: Task): Promise<Figures> {
  const { bytes, depth, step } = task;
  const numbers = ['-c', String(REQUESTS), '-d', String(depth), '-s', String(bytes), '-S', String(step)];
  const args = ['bench', '-f', 'qcow2', '-w', '-t', 'writeback', ...numbers, image];
  // The shell tells the CPU time of what it ran; the bench its own wall time, without opening and closing.
  const { stdout } = await execute(
    'bash',
    ['-c', 'TIMEFORMAT="cpu %U %S"; time qemu-img "$@" 2>&1', 'bash', ...args].concat(),
    {
      encoding: 'utf8',
    },
  ).then(({ stdout: out, stderr }) => ({ stdout: out + stderr }));
  const wall = Number(/Run completed in ([\d.]+) seconds/.exec(stdout)?.[1]);
  const [, user = 'NaN', system = 'NaN'] = /cpu ([\d.]+) ([\d.]+)/.exec(stdout) ?? [];
  return { perSecond: REQUESTS / wall, cpuMicros: ((Number(user) + Number(system)) * 1e6) / REQUESTS };
}

const middle = (values: number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

const folder = await mkdtemp(join(process.argv[3] ?? tmpdir(), 'qcow2-bench-'));
try {
  const { stdout } = await execute('qemu-img', ['--version']);
  console.log(
    `${stdout.split('\n')[0] ?? ''}; Node ${process.version}; ${cpus().length} × ${cpus()[0]?.model ?? '?'}`,
  );
  console.log(
    `${REQUESTS} requests, median of ${ROUNDS}; requests a second and CPU µs a request, ours : QEMU's`,
  );
  const image = join(folder, 'a.qcow2');
  const base = join(folder, 'base.raw');
  await writeFile(base, Buffer.alloc((REQUESTS + 1) * CLUSTER, 'base'));
  for (const task of TASKS.filter(({ name }) => WANTED.test(name))) {
    const figures: { ours: Figures[]; theirs: Figures[] } = { ours: [], theirs: [] };
    for (let round = 0; round < ROUNDS; round++) {
      for (const [who, run] of [
        ['ours', ours],
        ['theirs', theirs],
      ] as const) {
        const backing = task.overlay ? { backingFile: base, backingFormat: 'raw' } : {};
        await createQcow2(image, { sizeBytes: imageBytes(task), ...backing });
        if (!task.fresh) await run(image, task);
        figures[who].push(await run(image, task));
        await execute('qemu-img', ['check', image]);
        await rm(image);
      }
    }
    const rate = (who: 'ours' | 'theirs'): number => middle(figures[who].map(({ perSecond }) => perSecond));
    const cpu = (who: 'ours' | 'theirs'): number => middle(figures[who].map(({ cpuMicros }) => cpuMicros));
    const [mine, peer] = [rate('ours'), rate('theirs')];
    console.log(
      `${task.name.padEnd(38)} ${mine.toFixed(0).padStart(7)} : ${peer.toFixed(0).padStart(7)} ratio ` +
        `${(mine / peer).toFixed(2)}   cpu ${cpu('ours').toFixed(0).padStart(4)} : ${cpu('theirs').toFixed(0).padStart(4)}`,
    );
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
