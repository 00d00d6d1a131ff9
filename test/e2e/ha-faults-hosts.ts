/** Failures of a host that goes on: its disk is full (labs with `stateMiB`), its wall clock jumps (`hasClocks`). */
import { open, rm } from 'node:fs/promises';
import path from 'node:path';
import { nothing, signal, type Fault } from './ha-faults.ts';
import type { ClusterHost } from './ha-lab.ts';

const CHUNK = Buffer.alloc(256 * 1024, 1);
const HOUR_S = 3600;

/** Until not a byte more fits. Resolves with what makes room again. */
async function fillDisk(host: ClusterHost): Promise<() => Promise<void>> {
  const file = path.join(host.stateFolder, 'filler');
  const handle = await open(file, 'a');
  try {
    for (let bytes = CHUNK.length; bytes >= 1;) {
      try {
        await handle.appendFile(CHUNK.subarray(0, bytes));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        bytes = Math.floor(bytes / 2);
      }
    }
  } finally {
    await handle.close();
  }
  return () => rm(file);
}

/** Long enough for the guest to write where nothing was, milliseconds. */
const WRITES_MS = 15_000;
const writes = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, WRITES_MS));

export const FULL_DISK_FAULTS: readonly Fault[] = [
  {
    name: 'the disk of the secondary’s host is full, and has room again',
    isLoss: null,
    make: async (_cluster, _primary, secondary) => {
      const room = await fillDisk(secondary);
      await writes();
      return room;
    },
  },
  {
    name: 'the disk of the primary’s host is full, and has room again',
    isLoss: null,
    make: async (_cluster, primary) => {
      const room = await fillDisk(primary);
      await writes();
      return room;
    },
  },
  {
    name: 'the primary’s process is killed while the secondary’s disk is full: nobody speaks until there is room',
    isLoss: true,
    make: async (cluster, primary, secondary) => {
      const newest = await secondary.newest();
      const room = await fillDisk(secondary);
      signal(await primary.vmPid(), 'SIGKILL');
      await secondary.untilEvent('the loss', newest, ({ type }) => type === 'peer-lost');
      await cluster.whileMute(() =>
        secondary.untilEvent('the full disk', newest, ({ type }) => type === 'disk-trouble'),
      );
      await room();
      return nothing;
    },
  },
];

async function jump(host: ClusterHost, isLost: boolean): Promise<() => Promise<void>> {
  await host.setClock(HOUR_S);
  if (isLost) signal(await host.vmPid(), 'SIGKILL');
  return async () => {
    await host.setClock(-HOUR_S);
    await host.ask((client) => client.health());
    await host.setClock(0);
  };
}

export const CLOCK_FAULTS: readonly Fault[] = [
  {
    name: 'the wall clock of the primary’s host jumps an hour ahead, two hours back, and right again',
    isLoss: false,
    make: (_cluster, primary) => jump(primary, false),
  },
  {
    name: 'the wall clock of the secondary’s host jumps an hour ahead, two hours back, and right again',
    isLoss: false,
    make: (_cluster, _primary, secondary) => jump(secondary, false),
  },
  {
    name: 'the wall clock of the primary’s host jumps, and its process is killed',
    isLoss: true,
    make: (_cluster, primary) => jump(primary, true),
  },
];
