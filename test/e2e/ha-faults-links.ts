/** A pair's link that is slow, late and out of order; for labs whose cables to `pair` are user-space ones. */
import { signal, type Fault } from './ha-faults.ts';

const KBIT_PER_SECOND = 20_000;
const LATE = { delayMs: 20, jitterMs: 20 };

export const LINK_FAULTS: readonly Fault[] = [
  {
    name: 'the pair’s link carries 20 Mbit/s',
    isLoss: false,
    make: async ({ lab }, primary) => {
      await lab.slow(primary.name, 'pair', KBIT_PER_SECOND);
      return () => lab.slow(primary.name, 'pair', 0);
    },
  },
  {
    name: 'the pair’s frames are 20 to 40 ms late each way, and overtake each other',
    isLoss: false,
    make: async ({ lab }, primary) => {
      await lab.wire(primary.name, 'pair', LATE);
      return () => lab.wire(primary.name, 'pair', {});
    },
  },
  {
    name: 'the pair’s frames are late and out of order, and the primary’s process is killed',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await lab.wire(primary.name, 'pair', LATE);
      signal(await primary.vmPid(), 'SIGKILL');
      return () => lab.wire(primary.name, 'pair', {});
    },
  },
];
