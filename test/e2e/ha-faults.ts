/** Failures of a cluster with a protected VM, each with what undoes it; for ha-story.ts. */
import type { Cluster, ClusterHost } from './ha-lab.ts';

export interface Fault {
  readonly name: string;
  /** `primary` and `secondary`: who they were before. Resolves with what undoes it afterwards. */
  readonly make: (
    cluster: Cluster,
    primary: ClusterHost,
    secondary: ClusterHost,
  ) => Promise<() => Promise<void>>;
  /** Somebody has to go on alone; null: may. */
  readonly isLoss: boolean | null;
}

export const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended: who was replaced is killed.
  }
};
export const nothing = (): Promise<void> => Promise.resolve();

export const KILLED: Fault = {
  name: 'the process of the primary is killed',
  isLoss: true,
  make: async (_cluster, primary) => {
    signal(await primary.vmPid(), 'SIGKILL');
    return nothing;
  },
};

export const FROZEN: Fault = {
  name: 'the whole host of the primary is frozen, and goes on when another speaks',
  isLoss: true,
  make: async (_cluster, primary) => {
    await primary.signalAll('SIGSTOP');
    return () => primary.signalAll('SIGCONT');
  },
};

export const LINK_CUT: Fault = {
  name: 'the pair’s cable is cut for good, the heartbeat’s is not',
  isLoss: true,
  make: async ({ lab }, primary, secondary) => {
    await lab.cutBetween(primary.name, secondary.name, 'pair');
    return () => lab.heal();
  },
};

export const FAULTS: readonly Fault[] = [
  KILLED,
  {
    name: 'the process of the secondary is killed',
    isLoss: true,
    make: async (_cluster, _primary, secondary) => {
      signal(await secondary.vmPid(), 'SIGKILL');
      return nothing;
    },
  },
  {
    name: 'the process of the primary is stopped, and goes on when another speaks',
    isLoss: true,
    make: async (_cluster, primary) => {
      const pid = await primary.vmPid();
      signal(pid, 'SIGSTOP');
      return () => {
        signal(pid, 'SIGCONT');
        return Promise.resolve();
      };
    },
  },
  FROZEN,
  {
    name: 'the whole host of the secondary is frozen, and goes on later',
    isLoss: true,
    make: async (_cluster, _primary, secondary) => {
      await secondary.signalAll('SIGSTOP');
      return () => secondary.signalAll('SIGCONT');
    },
  },
  {
    name: 'every cable between the hosts is cut at the primary, which still reaches the lan and the arbiter',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await Promise.all([lab.cut(primary.name, 'pair'), lab.cut(primary.name, 'beat')]);
      return () => lab.heal();
    },
  },
  {
    name: 'what the primary sends to the other hosts is lost, what they send is not',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await Promise.all([
        lab.cutOneWay(primary.name, 'pair', 'out'),
        lab.cutOneWay(primary.name, 'beat', 'out'),
      ]);
      return () => lab.heal();
    },
  },
  {
    name: 'what the other hosts send to the primary is lost, what it sends is not',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await Promise.all([
        lab.cutOneWay(primary.name, 'pair', 'in'),
        lab.cutOneWay(primary.name, 'beat', 'in'),
      ]);
      return () => lab.heal();
    },
  },
  LINK_CUT,
  {
    name: 'the power of the primary’s host is cut, and comes back',
    isLoss: true,
    make: async ({ lab }, primary) => {
      // The cables first: a kernel that lives would end the connections.
      await Promise.all((['pair', 'beat', 'lan'] as const).map((network) => lab.cut(primary.name, network)));
      await primary.signalAll('SIGKILL');
      return async () => {
        await lab.heal();
        await primary.start();
      };
    },
  },
  {
    name: 'the daemon of the primary is killed, and started anew',
    isLoss: false,
    make: (_cluster, primary) => {
      signal(primary.daemonPid, 'SIGKILL');
      return Promise.resolve(() => primary.start());
    },
  },
  {
    name: 'the daemon of the primary is stopped, and goes on',
    isLoss: false,
    make: async (_cluster, primary, secondary) => {
      const newest = await secondary.newest();
      signal(primary.daemonPid, 'SIGSTOP');
      await secondary.untilEvent('the silence', newest, ({ type, data }) => {
        return type === 'host-silent' && data?.['host'] === primary.name;
      });
      return () => {
        signal(primary.daemonPid, 'SIGCONT');
        return nothing();
      };
    },
  },
  {
    name: 'the cable of the primary’s host to the guests’ network is cut for a while',
    isLoss: false,
    make: async ({ lab }, primary) => {
      await lab.cut(primary.name, 'lan');
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      await lab.heal();
      return nothing;
    },
  },
  {
    name: 'the pair’s cable is cut for a moment, which is ridden out',
    isLoss: false,
    make: async (cluster, primary, secondary) => {
      const newest = await primary.newest();
      await cluster.lab.cutBetween(primary.name, secondary.name, 'pair');
      // At once: TCP waits twice as long before each try to repeat, and no longer than 5 s is ridden out in one dialogue.
      await primary.untilEvent('the silence', newest, ({ data, to }) => to === 'suspect' && !data);
      await cluster.lab.heal();
      return nothing;
    },
  },
  {
    name: 'the heartbeat’s network is cut',
    isLoss: false,
    make: async ({ lab }, primary) => {
      await lab.cut(primary.name, 'beat');
      return () => lab.heal();
    },
  },
  {
    name: 'the pair’s network loses one frame in ten',
    isLoss: false,
    make: async ({ lab }, primary) => {
      await lab.lose(primary.name, 'pair', 10);
      return () => lab.heal();
    },
  },
];
