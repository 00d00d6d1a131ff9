/**
 * What a frame costs in memory: the comparer of the built program in this process, the load outside. Prints the growth
 * of the heap over the frames (after a full collection on both ends), and what was allocated meanwhile: the rises of
 * the used heap, looked at often, so that a collection hides little; and the collections themselves.
 */
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
const LOOK_MS = 2;

export async function measureMemory(
  folder: string,
  frameBytes: number,
  flows: number,
  frames: number,
  load: (request: LoadRequest) => Promise<readonly LoadResult[]>,
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
  let allocated = 0;
  let used = 0;
  const look = (): void => {
    const now = process.memoryUsage().heapUsed;
    if (now > used) allocated += now - used;
    used = now;
  };
  try {
    const common = { folder, frameBytes, flows };
    await load({ ...common, runs: [{ frames: Math.min(frames, 500_000) }] });
    collect();
    const before = process.memoryUsage();
    used = before.heapUsed;
    observer.observe({ entryTypes: ['gc'] });
    const timer = setInterval(look, LOOK_MS);
    const [result] = (await load({ ...common, runs: [{ frames }] })) as [LoadResult];
    clearInterval(timer);
    look();
    await new Promise((resolve) => setImmediate(resolve));
    observer.disconnect();
    collect();
    const after = process.memoryUsage();
    const grown = (key: 'heapUsed' | 'external' | 'arrayBuffers' | 'rss'): string =>
      `${((after[key] - before[key]) / MIB).toFixed(1)} MiB`;
    console.log(
      `→ ${frameBytes} B, ${flows} flows, ${result.frames} frames in ${result.seconds.toFixed(1)} s ` +
        `(${(result.frames / result.seconds / 1000).toFixed(0)} k/s): heap grew by ${grown('heapUsed')}, ` +
        `buffers by ${grown('arrayBuffers')}, resident ${grown('rss')}; allocated about ` +
        `${(allocated / result.frames).toFixed(1)} B of heap a frame; ${gcs.minor} minor and ${gcs.major} major ` +
        `collections, ${gcs.pauseMs.toFixed(0)} ms`,
    );
  } finally {
    compare.close();
    for (const chardev of chardevs) await chardev.close();
  }
}
