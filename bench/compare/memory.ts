/**
 * What a frame costs in memory: the comparer of the built program in this process, the load outside. Prints the growth
 * of the heap over the frames (after a full collection on both ends) and the collections meanwhile; then, over further
 * frames, what V8's allocation sampling counts a frame, and where. Node's own objects for a read, a write and a tick have
 * their share in each frame that came along.
 */
import { Session } from 'node:inspector/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { PerformanceObserver, constants } from 'node:perf_hooks';
import { join } from 'node:path';
import type { SocketChardev as Socket } from '../../src/chardev/socket.ts';
import type { ColoCompare as Compare } from '../../src/net/compare/compare.ts';
import type { LoadRequest, LoadResult } from './load.ts';

// The built program: a loader for TypeScript would be measured too.
const dist = (file: string): string => new URL(`../../dist/${file}`, import.meta.url).href;
const { ColoCompare } = (await import(dist('net/compare/compare.js'))) as { ColoCompare: typeof Compare };
const { SocketChardev } = (await import(dist('chardev/socket.js'))) as { SocketChardev: typeof Socket };

const MIB = 1024 * 1024;
const WARM_UP_FRAMES = 500_000;
const SAMPLED_FRAMES = 500_000;
const SAMPLING_BYTES = 16_384;

export async function measureMemory(
  folder: string,
  frameBytes: number,
  flows: number,
  frames: number,
  load: (request: LoadRequest, onRun: (index: number) => void) => Promise<readonly LoadResult[]>,
): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const chardevs = ['p', 's', 'o'].map(
    (id) =>
      new SocketChardev({
        backend: 'socket',
        id,
        address: { type: 'unix', path: join(folder, id) },
        server: true,
        wait: false,
        nodelay: true,
        reconnectMs: 0,
      }),
  );
  for (const chardev of chardevs) await chardev.open();
  const [primaryIn, secondaryIn, outdev] = chardevs as [Socket, Socket, Socket];
  const compare = new ColoCompare('c', { primaryIn, secondaryIn, outdev });
  const gcs = { minor: 0, major: 0, pauseMs: 0 };
  const observer = new PerformanceObserver((list) => {
    for (const { duration, detail } of list.getEntries() as unknown as {
      duration: number;
      detail: { kind: number };
    }[]) {
      if (detail.kind === constants.NODE_PERFORMANCE_GC_MINOR) gcs.minor++;
      else gcs.major++;
      gcs.pauseMs += duration;
    }
  });
  const runs = [{ frames: Math.min(frames, WARM_UP_FRAMES) }, { frames }, { frames: SAMPLED_FRAMES }];
  const snapshots: NodeJS.MemoryUsage[] = [];
  const sampling = new AllocationSampling();
  // One connection for all runs: on another one the same bytes would be repetitions, which are judged more cheaply.
  const onRun = (index: number): void => {
    if (index === 0) return;
    if (index === 2) observer.disconnect();
    collect();
    snapshots.push(process.memoryUsage());
    if (index === 1) observer.observe({ entryTypes: ['gc'] });
    else sampling.start();
  };
  try {
    const [, result] = (await load({ folder, frameBytes, flows, runs }, onRun)) as [LoadResult, LoadResult];
    const { bytes, ownBytes, places } = await sampling.stop();
    const [before, after] = snapshots as [NodeJS.MemoryUsage, NodeJS.MemoryUsage];
    const grown = (key: 'heapUsed' | 'external' | 'arrayBuffers' | 'rss'): string =>
      `${((after[key] - before[key]) / MIB).toFixed(1)} MiB`;
    console.log(
      `→ ${frameBytes} B, ${flows} flows, ${result.frames} frames in ${result.seconds.toFixed(1)} s ` +
        `(${(result.frames / result.seconds / 1000).toFixed(0)} k/s): heap grew by ${grown('heapUsed')}, ` +
        `buffers by ${grown('arrayBuffers')}, resident ${grown('rss')}; ${gcs.minor} minor and ${gcs.major} major ` +
        `collections, ${gcs.pauseMs.toFixed(0)} ms`,
    );
    const each = (count: number): string => (count / SAMPLED_FRAMES).toFixed(1);
    console.log(
      `    allocated: ${each(bytes)} B a frame, ${each(ownBytes)} of them not by Node's sockets and ticks`,
    );
    for (const [place, count] of places.slice(0, 5)) console.log(`      ${each(count).padStart(6)} ${place}`);
  } finally {
    compare.close();
    for (const chardev of chardevs) await chardev.close();
  }
}

interface ProfileNode {
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  readonly selfSize: number;
  readonly children: readonly ProfileNode[];
}

/** Counts what is allocated, whether it is collected again or not. */
class AllocationSampling {
  readonly #session = new Session();

  start(): void {
    this.#session.connect();
    void this.#session.post('HeapProfiler.startSampling', {
      samplingInterval: SAMPLING_BYTES,
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    });
  }

  async stop(): Promise<Tally> {
    const reply = await this.#session.post('HeapProfiler.stopSampling');
    this.#session.disconnect();
    return tally((reply as { profile: { head: ProfileNode } }).profile.head);
  }
}

interface Tally {
  readonly bytes: number;
  /** In functions of ours, and in what they call to make a buffer, an array and so on. */
  readonly ownBytes: number;
  /** Largest first. */
  readonly places: readonly (readonly [string, number])[];
}

function tally(head: ProfileNode): Tally {
  const places = new Map<string, number>();
  let bytes = 0;
  let ownBytes = 0;
  const visit = (
    { callFrame, selfSize, children }: ProfileNode,
    caller: string,
    isOursCalling: boolean,
  ): void => {
    const { functionName, url, lineNumber } = callFrame;
    const file = url.split('/').slice(-2).join('/');
    const place = `${functionName || '(top)'} ${file}:${lineNumber + 1}, called by ${caller}`;
    places.set(place, (places.get(place) ?? 0) + selfSize);
    bytes += selfSize;
    const isOurs = url.includes('/dist/');
    if (isOurs || (isOursCalling && /^$|^node:buffer$/.test(url))) ownBytes += selfSize;
    for (const child of children) visit(child, functionName, isOurs);
  };
  visit(head, 'nobody', false);
  return { bytes, ownBytes, places: [...places].sort((a, b) => b[1] - a[1]) };
}
