/**
 * drive-mirror against QEMU's in one run: a raw file of data (in the page cache) to a raw file, and to a disk on a
 * qemu-nbd (unix socket); both sides are `-machine none`, asked over QMP. Measured from the command to BLOCK_JOB_READY,
 * with the CPU time of the process that copies. `npm run build` first; then
 * `node --import tsx bench/mirror.ts [MiB] [rounds]`. Prints medians and the ratio ours : QEMU (larger is better).
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { open, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer, connect, type Socket } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const MIB = 1024 * 1024;
const SIZE_MIB = Number(process.argv[2] ?? 512);
const ROUNDS = Number(process.argv[3] ?? 5);
/** Linux counts CPU time in hundredths of a second. */
const TICKS_PER_SECOND = 100;

const folder = await mkdtemp(join(tmpdir(), 'mirror-bench-'));
const at = (name: string): string => join(folder, name);
const children: ChildProcess[] = [];

interface Vm {
  readonly pid: number;
  execute(command: string, args?: Record<string, unknown>): Promise<unknown>;
  event(name: string): Promise<void>;
}

/** Starts a VM that connects its monitor back to us. */
async function startVm(name: string, program: string, args: readonly string[]): Promise<Vm> {
  const server = createServer();
  server.listen(at(`${name}.qmp`));
  await once(server, 'listening');
  const drive = `if=none,id=d0,driver=raw,file.driver=file,file.filename=${at('source')},file.locking=off,read-only=on`;
  const child = spawn(
    program,
    [
      ...args,
      '-machine',
      'none',
      '-nodefaults',
      '-nographic',
      '-qmp',
      `unix:${at(`${name}.qmp`)}`,
      '-drive',
      drive,
    ],
    { stdio: 'ignore' },
  );
  children.push(child);
  const [socket] = (await once(server, 'connection')) as [Socket];
  server.close();
  const replies: ((reply: unknown) => void)[] = [];
  let waiting: { name: string; resolve: () => void }[] = [];
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line) as { event?: string; QMP?: unknown; error?: unknown };
    if (message.event !== undefined) {
      for (const one of waiting.filter(({ name: wanted }) => wanted === message.event)) one.resolve();
      waiting = waiting.filter(({ name: wanted }) => wanted !== message.event);
    } else if (message.QMP === undefined) {
      if (message.error !== undefined) throw new Error(JSON.stringify(message));
      replies.shift()?.(message);
    }
  });
  const execute: Vm['execute'] = (command, args) =>
    new Promise((resolve) => {
      replies.push(resolve);
      socket.write(`${JSON.stringify({ execute: command, ...(args ? { arguments: args } : {}) })}\n`);
    });
  await execute('qmp_capabilities');
  const event: Vm['event'] = (wanted) => new Promise((resolve) => waiting.push({ name: wanted, resolve }));
  return { pid: child.pid ?? 0, execute, event };
}

async function cpuSeconds(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** One mirror, from the command to READY; then it is cancelled and its target emptied. */
async function mirror(vm: Vm, target: string): Promise<{ seconds: number; cpu: number }> {
  const ready = vm.event('BLOCK_JOB_READY');
  const cpuBefore = await cpuSeconds(vm.pid);
  const start = performance.now();
  await vm.execute('drive-mirror', { device: 'd0', target, mode: 'existing', format: 'raw', sync: 'full' });
  await ready;
  const seconds = (performance.now() - start) / 1000;
  const cpu = (await cpuSeconds(vm.pid)) - cpuBefore;
  const ended = vm.event('BLOCK_JOB_COMPLETED');
  await vm.execute('block-job-cancel', { device: 'd0' });
  await ended;
  return { seconds, cpu };
}

async function freshTarget(): Promise<void> {
  await truncate(at('target'), 0);
  await truncate(at('target'), SIZE_MIB * MIB);
}

/** A server for one round. */
async function withServer<T>(act: (uri: string) => Promise<T>): Promise<T> {
  const socket = at('nbd.sock');
  const child = spawn('qemu-nbd', ['-f', 'raw', '-t', '-e', '10', '-k', socket, at('target')], {
    stdio: 'ignore',
  });
  children.push(child);
  try {
    for (;;) {
      const probe = connect(socket);
      const up = await new Promise<boolean>((resolve) => {
        probe.on('connect', () => resolve(true)).on('error', () => resolve(false));
      });
      probe.destroy();
      if (up) break;
      if (child.exitCode !== null) throw new Error('qemu-nbd ended');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return await act(`nbd+unix:///?socket=${socket}`);
  } finally {
    const exited = once(child, 'exit');
    child.kill();
    await exited;
  }
}

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

try {
  const file = await open(at('source'), 'w');
  const block = Buffer.alloc(MIB, 'not zero');
  for (let done = 0; done < SIZE_MIB; done++) await file.write(block);
  await file.close();
  await writeFile(at('target'), '');
  const main = join(import.meta.dirname, '../dist/cli/main.js');
  const vms = [
    { name: 'QEMU', vm: await startVm('qemu', 'qemu-system-x86_64', []) },
    { name: 'ours', vm: await startVm('ours', process.execPath, [main, 'vm']) },
  ];
  const version =
    execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '';
  console.log(`${version}; Node ${process.version}; ${cpus().length} × ${cpus()[0]?.model ?? '?'}`);
  console.log(`drive-mirror of ${SIZE_MIB} MiB, median of ${ROUNDS}, in turns`);
  for (const kind of ['raw file', 'qemu-nbd'] as const) {
    const seconds = new Map<string, number[]>();
    const cpu = new Map<string, number[]>();
    for (let round = 0; round < ROUNDS; round++) {
      for (const { name, vm } of vms) {
        await freshTarget();
        const one =
          kind === 'raw file' ? await mirror(vm, at('target')) : await withServer((uri) => mirror(vm, uri));
        seconds.set(name, [...(seconds.get(name) ?? []), one.seconds]);
        cpu.set(name, [...(cpu.get(name) ?? []), one.cpu]);
      }
    }
    const [theirs = NaN, ours = NaN] = ['QEMU', 'ours'].map((name) => median(seconds.get(name) ?? []));
    const [theirCpu = NaN, ourCpu = NaN] = ['QEMU', 'ours'].map((name) => median(cpu.get(name) ?? []));
    console.log(
      `→ ${kind}: ours ${(SIZE_MIB / ours).toFixed(0)} MiB/s (CPU ${ourCpu.toFixed(2)} s), ` +
        `QEMU ${(SIZE_MIB / theirs).toFixed(0)} MiB/s (CPU ${theirCpu.toFixed(2)} s), ratio ${(theirs / ours).toFixed(2)}`,
    );
  }
} finally {
  for (const child of children) child.kill();
  await rm(folder, { recursive: true, force: true });
}
