/**
 * What a checkpoint's RAM costs by the size of the guest, the threads and the pages that changed, on memory of which all
 * is in use. Each round captures once with every number of threads and compares the same memory on one thread as v86's
 * engine does (Buffer.compare in blocks of 64 KiB); medians of the rounds. Then a least squares fit of
 * `a · GiB + b · thousand pages` and the time of a load. `npm run build` first; then
 *
 *   node --import tsx bench/ram.ts [--mib 256] [--threads 0,1,2,4] [--rounds 15] [--changed 0,256,2560,25600] [--sparse-mib 4096]
 *
 * Takes the built program when there is one, since the threads of a source tree start slowly; the figures are the same.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { RamFile, RamSnapshots } from '../src/engine/ram/index.ts';
import { findChangedPages } from '../src/engine/v86/ram-diff.ts';

const PAGE = 4096;
const MIB = 1024 * 1024;

const { values } = parseArgs({
  options: {
    mib: { type: 'string', default: '256' },
    threads: { type: 'string', default: '0,1,2,4' },
    rounds: { type: 'string', default: '15' },
    changed: { type: 'string', default: '0,256,2560,25600' },
    'sparse-mib': { type: 'string', default: '4096' },
  },
});
const numbers = (text: string): number[] => text.split(',').map(Number);
const threadCounts = numbers(values.threads);
const rounds = Number(values.rounds);
const median = (list: number[]): number => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;

async function timed(work: () => unknown): Promise<number> {
  const from = performance.now();
  await work();
  return performance.now() - from;
}

/** Processor time of all threads since `from`, in ms: what a busy machine changes less than the time on the wall. */
function cpuMs(from: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(from);
  return (user + system) / 1000;
}

/** Shared memory that this process has in its page tables, in MiB. */
function sharedMib(): number {
  return Number(/RssShmem:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1024;
}

interface Sample {
  readonly gib: number;
  readonly pages: number;
  readonly ms: number;
  readonly cpuMs: number;
}

/** ms for each GiB and for each thousand pages. */
function fit(samples: readonly Sample[], what: 'ms' | 'cpuMs'): { a: number; b: number } {
  let [gg, gp, pp, gm, pm] = [0, 0, 0, 0, 0];
  for (const { gib, pages, [what]: ms } of samples) {
    const p = pages / 1000;
    gg += gib * gib;
    gp += gib * p;
    pp += p * p;
    gm += gib * ms;
    pm += p * ms;
  }
  const determinant = gg * pp - gp * gp;
  return { a: (gm * pp - pm * gp) / determinant, b: (pm * gg - gm * gp) / determinant };
}

async function measure(mib: number, samples: Map<number, Sample[]>): Promise<void> {
  const byteLength = mib * MIB;
  const gib = mib / 1024;
  const ram = RamFile.create('bench', byteLength);
  for (let at = 0; at < byteLength; at += PAGE) ram.bytes.fill(at / PAGE, at, at + PAGE);
  const copy = Buffer.allocUnsafeSlow(byteLength);
  const list = new Uint32Array(byteLength / PAGE);
  const all: { threads: number; snapshots: RamSnapshots }[] = [];
  for (const threads of threadCounts) {
    const snapshots = await RamSnapshots.open(ram, threads);
    const ms = await timed(() => snapshots.capture({ full: true }));
    console.log(`${mib} MiB, ${threads} threads: the first capture, of all pages: ${ms.toFixed(0)} ms`);
    all.push({ threads, snapshots });
  }
  for (const changed of numbers(values.changed)) {
    const times = new Map<string, number[]>();
    const note = (what: string, ms: number): void => {
      times.set(what, [...(times.get(what) ?? []), ms]);
    };
    for (let round = 0; round < rounds; round++) {
      ram.bytes.copy(copy);
      // Half of them anywhere, half next to each other.
      const start = Math.floor(Math.random() * (list.length - changed / 2));
      for (let at = 0; at < changed; at++) {
        const page = at % 2 === 0 ? Math.floor(Math.random() * list.length) : start + (at - 1) / 2;
        ram.bytes[page * PAGE + (round % PAGE)]! ^= 1;
      }
      await sleep(2);
      note('one thread, compare only', await timed(() => findChangedPages(ram.bytes, copy, list)));
      for (const { threads, snapshots } of all) {
        let pages = 0;
        const before = process.cpuUsage();
        const ms = await timed(async () => ({ pages } = await snapshots.capture({ full: false })));
        note(`capture, ${threads} threads`, ms);
        samples.set(threads, [...(samples.get(threads) ?? []), { gib, pages, ms, cpuMs: cpuMs(before) }]);
        await sleep(1);
      }
    }
    console.log(`${mib} MiB, ${changed} pages changed:`);
    for (const [what, list] of times) {
      const p50 = median(list);
      const best = Math.min(...list);
      console.log(
        `  ${what.padEnd(28)} p50 ${p50.toFixed(1)} ms (${(p50 / gib).toFixed(0)} ms/GiB), best ${best.toFixed(1)} ms`,
      );
    }
  }
  for (const { snapshots } of all) await snapshots.close();
  ram.close();
}

async function measureSparse(mib: number): Promise<void> {
  const ram = RamFile.create('sparse', mib * MIB);
  const other = RamFile.create('sparse-2', mib * MIB);
  for (let at = 0; at < 100; at++) {
    const offset = Math.floor((at * mib) / 100) * MIB;
    const window = ram.windows[Math.floor(offset / ram.windows[0]!.length)]!;
    window.fill(at + 1, offset % ram.windows[0]!.length, (offset % ram.windows[0]!.length) + MIB);
  }
  const [from, to] = [await RamSnapshots.open(ram), await RamSnapshots.open(other)];
  const before = sharedMib();
  let bytes = new Uint8Array(0);
  const first = await timed(async () => ({ ram: bytes } = await from.capture({ full: true })));
  const loaded = await timed(() => to.load(to.check([bytes])));
  const idle: number[] = [];
  for (let round = 0; round < rounds; round++) {
    idle.push(await timed(() => from.capture({ full: false })));
  }
  console.log(
    `${mib} MiB of which 100 are used: capture ${first.toFixed(0)} ms, load ${loaded.toFixed(0)} ms, ` +
      `idle capture p50 ${median(idle).toFixed(1)} ms; shared memory ${before.toFixed(0)} -> ${sharedMib().toFixed(0)} MiB ` +
      '(guest, baseline, and both again for the load)',
  );
  await from.close();
  await to.close();
  ram.close();
  other.close();
}

console.log(`${availableParallelism()} processors, load ${loadavg()[0]!.toFixed(1)}`);
const samples = new Map<number, Sample[]>();
for (const mib of numbers(values.mib)) await measure(mib, samples);
for (const [threads, list] of samples) {
  for (const [what, name] of [
    ['ms', 'time'],
    ['cpuMs', 'processor time'],
  ] as const) {
    const { a, b } = fit(list, what);
    console.log(
      `${threads} threads, ${name}: ${a.toFixed(0)} ms × GiB + ${b.toFixed(2)} ms × thousand changed pages`,
    );
  }
}
await measureSparse(Number(values['sparse-mib']));
