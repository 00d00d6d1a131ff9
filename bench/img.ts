/**
 * `colo img convert` and `compare` against qemu-img: the same files (in the page cache), whole programs, one after the
 * other. `node --import tsx bench/img.ts [MiB]` after `npm run build`; needs qemu-utils. Prints medians: time and CPU
 * time of each. A quarter of the image is data; ours ends with a flush, qemu-img's default does not.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const MIB = 2 ** 20;
const SIZE_MIB = Number(process.argv[2] ?? 1024);
const ROUNDS = 3;
const MAIN = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const execute = promisify(execFile);

const TASKS: readonly (readonly [string, readonly string[]])[] = [
  ['start alone (info)', ['info', 'in.raw']],
  ['raw to qcow2', ['convert', '-f', 'raw', '-O', 'qcow2', 'in.raw', 'out']],
  ['raw to qcow2, out of order', ['convert', '-W', '-f', 'raw', '-O', 'qcow2', 'in.raw', 'out']],
  ['raw to qcow2, all written', ['convert', '-S', '0', '-f', 'raw', '-O', 'qcow2', 'in.raw', 'out']],
  ['qcow2 to raw', ['convert', '-f', 'qcow2', '-O', 'raw', 'in.qcow2', 'out']],
  [
    'qcow2 to raw, writethrough',
    ['convert', '-t', 'writethrough', '-f', 'qcow2', '-O', 'raw', 'in.qcow2', 'out'],
  ],
  ['raw to compressed qcow2', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', 'in.raw', 'out']],
  ['compare raw and qcow2', ['compare', '-f', 'raw', '-F', 'qcow2', 'in.raw', 'in.qcow2']],
  ['map qcow2', ['map', '--output=json', 'in.qcow2']],
];

interface Cost {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

/** bash tells what a child took. */
async function cost(folder: string, command: readonly string[]): Promise<Cost> {
  const script = 'TIMEFORMAT="%R %U %S"; time "$@" >/dev/null';
  const { stderr } = await execute('bash', ['-c', script, 'time', ...command], { cwd: folder });
  const [real = NaN, user = NaN, system = NaN] = stderr.trim().split(/\s+/).slice(-3).map(Number);
  return { seconds: real, cpuSeconds: user + system };
}

function median(costs: readonly Cost[], of: (cost: Cost) => number): number {
  const sorted = costs.map(of).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

async function makeImages(folder: string): Promise<void> {
  const file = await open(join(folder, 'in.raw'), 'w');
  await file.truncate(SIZE_MIB * MIB);
  for (let at = 0; at < SIZE_MIB; at += 16) {
    // Half of it can be compressed.
    const piece = Buffer.concat([randomBytes(2 * MIB), Buffer.alloc(2 * MIB, 'some text ')]);
    await file.write(piece, 0, piece.byteLength, at * MIB);
  }
  await file.close();
  await execute('qemu-img', ['convert', '-O', 'qcow2', 'in.raw', 'in.qcow2'], { cwd: folder });
}

const folder = await mkdtemp(join(tmpdir(), 'colo-bench-img-'));
try {
  await makeImages(folder);
  console.log(`${SIZE_MIB} MiB, ${cpus().length} × ${cpus()[0]?.model ?? '?'}, Node.js ${process.version}`);
  console.log(
    '| task | colo s | qemu-img s | colo CPU s | qemu-img CPU s |\n| --- | --- | --- | --- | --- |',
  );
  for (const [name, args] of TASKS) {
    const ours: Cost[] = [];
    const theirs: Cost[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      for (const [costs, program] of [
        [ours, [process.execPath, MAIN, 'img']],
        [theirs, ['qemu-img']],
      ] as const) {
        await rm(join(folder, 'out'), { force: true });
        costs.push(await cost(folder, [...program, ...args]));
      }
    }
    const numbers = [
      median(ours, ({ seconds }) => seconds),
      median(theirs, ({ seconds }) => seconds),
      median(ours, ({ cpuSeconds }) => cpuSeconds),
      median(theirs, ({ cpuSeconds }) => cpuSeconds),
    ];
    console.log(`| ${name} | ${numbers.map((number) => number.toFixed(2)).join(' | ')} |`);
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
