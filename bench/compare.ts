/**
 * colo-compare against QEMU's in one run: both are `-machine none` with three unix sockets and the same options, and
 * get the same TCP segments from the same generator (compare/load.ts), which checks that each of them comes out once and
 * unchanged, and counts how often it is not the next one. Prints released frames a second at saturation, then, at half
 * of the slower one's rate and at half of each one's own, the time from writing the later twin to reading the released
 * frame; the same for a process that only passes bytes on, so that what comparing adds can be seen. `npm run build`
 * first; then
 *
 *   node --import tsx bench/compare.ts [--seconds S] [--rounds N] [--sizes 64,1500] [--flows 1,1000] [--only ours] [--profile DIR]
 *   node --import tsx bench/compare.ts --frames 10000000      # ours alone, in this process: heap and collections
 *
 * Wants two free cores, the first for the generator and the second for what is measured (taskset pins them).
 */
import { execFileSync, fork, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, stat, unlink } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { measureMemory } from './compare/memory.ts';
import type { LoadReply, LoadRequest, LoadResult } from './compare/load.ts';

const NAMES = ['p', 's', 'o'] as const;
const DEVICES = ['QEMU', 'ours'] as const;
type Device = (typeof DEVICES)[number] | 'echo';
const WARM_UP_SECONDS = 1.5;
const TICKS_PER_SECOND = 100;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' },
    sizes: { type: 'string', default: '64,1500' },
    flows: { type: 'string', default: '1,1000' },
    frames: { type: 'string' },
    profile: { type: 'string' },
    only: { type: 'string' },
  },
});
const seconds = Number(values.seconds);
const numbers = (text: string): number[] => text.split(',').map(Number);
const folder = await mkdtemp(join(tmpdir(), 'compare-bench-'));
const main = join(import.meta.dirname, '../dist/cli/main.js');

interface Running {
  readonly folder: string;
  cpuSeconds(): number;
  stop(): Promise<void>;
}

async function start(device: Device): Promise<Running> {
  const home = await mkdtemp(join(folder, `${device}-`));
  const objects = [
    ...NAMES.flatMap((name) => ['-chardev', `socket,id=${name},path=${home}/${name},server=on,wait=off`]),
    ...[
      '-object',
      'iothread,id=io',
      '-object',
      'colo-compare,id=c,primary_in=p,secondary_in=s,outdev=o,iothread=io',
    ],
  ];
  const bare = ['-machine', 'none', '-nodefaults', '-display', 'none'];
  const profile = values.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${values.profile}`];
  const commands: Record<Device, [string, string[]]> = {
    QEMU: ['qemu-system-x86_64', [...bare, ...objects]],
    ours: [process.execPath, [...profile, main, 'vm', ...bare, ...objects]],
    echo: [process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'compare/echo.ts'), home]],
  };
  const [program, args] = commands[device];
  const child: ChildProcess = spawn('taskset', ['-c', '1', program, ...args], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  for (const name of NAMES) {
    while ((await stat(join(home, name)).catch(() => null)) === null) {
      if (child.exitCode !== null) throw new Error(`${device} has ended`);
      await sleep(20);
    }
  }
  return {
    folder: home,
    cpuSeconds: () => {
      const fields = readFileSync(`/proc/${child.pid ?? 0}/stat`, 'utf8')
        .replace(/^.*\) /, '')
        .split(' ');
      return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
    },
    stop: async () => {
      child.kill('SIGTERM');
      await Promise.race([exited, sleep(5_000).then(() => child.kill('SIGKILL'))]);
      await exited;
    },
  };
}

/** Runs the load. Throws when frames were lost or changed. */
async function load(request: LoadRequest, onRun?: (index: number) => void): Promise<readonly LoadResult[]> {
  const child = fork(join(import.meta.dirname, 'compare/load.ts'), { execArgv: ['--import', 'tsx'] });
  const ended = new Promise<LoadReply>((resolve) => {
    child.on('message', (reply: LoadReply) => {
      if ('begins' in reply) onRun?.(reply.begins);
      else resolve(reply);
    });
    child.on('exit', () => resolve({ error: 'the load has ended' }));
  });
  execFileSync('taskset', ['-a', '-p', '-c', '0', String(child.pid)]);
  child.send(request);
  const reply = await ended;
  if ('error' in reply) throw new Error(reply.error);
  return 'results' in reply ? reply.results : [];
}

const median = (list: readonly number[]): number =>
  [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? NaN;
const thousands = (value: number): string => `${(value / 1000).toFixed(0)} k/s`;
const latency = ({ latencyUs: us }: LoadResult): string =>
  us ? `p50 ${us.p50} µs, p99 ${us.p99} µs, max ${us.max} µs` : '';

async function measure(frameBytes: number, flows: number): Promise<void> {
  const devices = DEVICES.filter((device) => (values.only ?? device) === device);
  const rates = new Map<Device, number[]>(devices.map((device) => [device, []]));
  const disorder = new Map<Device, number>();
  const cpu = new Map<Device, number[]>(devices.map((device) => [device, []]));
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const device of devices) {
      const running = await start(device);
      try {
        const common = { folder: running.folder, frameBytes, flows };
        const warm = { seconds: WARM_UP_SECONDS };
        let before = NaN;
        const onRun = (index: number): void => {
          if (index === 1) before = running.cpuSeconds();
        };
        const [, result] = (await load({ ...common, runs: [warm, { seconds }] }, onRun)) as [
          LoadResult,
          LoadResult,
        ];
        rates.get(device)?.push(result.frames / result.seconds);
        disorder.set(device, (disorder.get(device) ?? 0) + result.outOfOrder);
        cpu.get(device)?.push(((running.cpuSeconds() - before) * 1e6) / result.frames);
      } finally {
        await running.stop();
      }
    }
  }
  const rate = (device: Device): number => median(rates.get(device) ?? []);
  const all = devices.map(
    (device) =>
      `${device} ${thousands(rate(device))} (${(rates.get(device) ?? []).map(thousands).join(', ')}; ` +
      `CPU ${median(cpu.get(device) ?? []).toFixed(2)} µs a frame; order broken ${disorder.get(device) ?? 0} times)`,
  );
  console.log(
    `→ ${frameBytes} B, ${flows} flows: ${all.join(', ')}, ratio ${(rate('ours') / rate('QEMU')).toFixed(2)}`,
  );
  const slower = Math.min(...devices.map(rate)) / 2;
  for (const device of ['echo', ...devices] as const) {
    const running = await start(device);
    try {
      const paces =
        device === 'echo'
          ? [...new Set([slower, ...devices.map((one) => rate(one) / 2)])]
          : [...new Set([slower, rate(device) / 2])];
      const runs = [{ seconds: WARM_UP_SECONDS }, ...paces.map((pace) => ({ seconds, rate: pace }))];
      const [, ...results] = await load({ folder: running.folder, frameBytes, flows, runs });
      results.forEach((result, index) =>
        console.log(
          `    ${device} at ${thousands(paces[index] ?? NaN)} (reached ${thousands(result.frames / result.seconds)}): ${latency(result)}`,
        ),
      );
    } finally {
      await running.stop();
    }
  }
}

try {
  const version =
    execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '';
  const load1 = loadavg()[0] ?? NaN;
  console.log(
    `${version}; Node ${process.version}; ${cpus().length} × ${cpus()[0]?.model ?? '?'}; load ${load1.toFixed(1)}`,
  );
  if (values.frames === undefined) {
    console.log(`colo-compare, unix sockets, ${seconds} s a run, median of ${values.rounds}, in turns`);
    for (const size of numbers(values.sizes))
      for (const flows of numbers(values.flows)) await measure(size, flows);
  } else {
    for (const size of numbers(values.sizes)) {
      for (const flows of numbers(values.flows)) {
        for (const name of NAMES) await unlink(join(folder, name)).catch(() => undefined);
        await measureMemory(folder, size, flows, Number(values.frames), load);
      }
    }
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
