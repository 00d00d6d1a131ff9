/**
 * colo-compare against QEMU's in one run: both are `-machine none` with three unix sockets and the same options, and
 * get the same TCP segments from the same generator (compare/load.ts), which checks that each of them comes out once and
 * unchanged, and counts how often it is not the next one. Prints released frames a second at saturation, then, at half
 * of the slower one's rate and at half of each one's own, the time from writing the later twin to reading the released
 * frame; the same for a process that only passes bytes on, so that what comparing adds can be seen. All of it in turns,
 * once a round. `npm run build` first; then
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
/** Small batches and large ones are not the same to a compiler that looks at what is run. */
const PACED_WARM_UP_SECONDS = 3;
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

/** The median of the rounds, and each of them: a round in which the machine did something else says nothing of a device. */
function latency(results: readonly LoadResult[]): string {
  const told = (['p50', 'p99', 'max'] as const).map((key) => {
    const all = results.map(({ latencyUs }) => latencyUs?.[key] ?? NaN);
    return `${key} ${median(all)} µs (${all.join(', ')})`;
  });
  return told.join(', ');
}

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
  await measureLatency(frameBytes, flows, new Map(devices.map((device) => [device, rate(device) / 2])));
}

/** At half of the slower one's rate, and at half of each one's own; the echo at all of these. */
async function measureLatency(
  frameBytes: number,
  flows: number,
  half: ReadonlyMap<Device, number>,
): Promise<void> {
  const slower = Math.min(...half.values());
  const plans = (['echo', ...half.keys()] as const).map((device) => {
    const paces = new Set(
      device === 'echo' ? [slower, ...half.values()] : [slower, half.get(device) ?? slower],
    );
    return { device, runs: Array.from(paces, (pace) => ({ pace, results: [] as LoadResult[] })) };
  });
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const { device, runs } of plans) {
      const running = await start(device);
      try {
        const paced = runs.flatMap(({ pace }) =>
          [PACED_WARM_UP_SECONDS, seconds].map((length) => ({ seconds: length, rate: pace })),
        );
        const all = [{ seconds: WARM_UP_SECONDS }, ...paced];
        const results = await load({ folder: running.folder, frameBytes, flows, runs: all });
        runs.forEach((run, index) => run.results.push(results[2 * index + 2]!));
      } finally {
        await running.stop();
      }
    }
  }
  for (const { device, runs } of plans) {
    for (const { pace, results } of runs) {
      const reached = thousands(median(results.map((result) => result.frames / result.seconds)));
      console.log(`    ${device} at ${thousands(pace)} (reached ${reached}): ${latency(results)}`);
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
