/**
 * Failures of the arbiter: an etcd in a namespace of its own (labs with `hasArbiter`, its cable a user-space one), or a
 * folder that is not there any more. Nobody goes on alone without it, and nobody has to who is not alone.
 */
import { nothing, signal, type Fault } from './ha-faults.ts';
import type { Cluster, ClusterHost } from './ha-lab.ts';

/** Hosts are leases there, of ten seconds. */
const leasesGone = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 12_000));

/** The primary's process is killed while the other host cannot ask: nobody speaks until `back`. */
async function killInVain(
  cluster: Cluster,
  primary: ClusterHost,
  secondary: ClusterHost,
  back: () => Promise<void>,
): Promise<void> {
  const newest = await secondary.newest();
  signal(await primary.vmPid(), 'SIGKILL');
  await secondary.untilEvent('the question', newest, ({ type }) => type === 'peer-lost');
  await cluster.whileMute(() =>
    secondary.untilEvent('no answer', newest, ({ type }) => type === 'arbiter-unreachable'),
  );
  await back();
}

export const AWAY_AND_BACK: Fault = {
  name: 'the primary’s process is killed while the arbiter is away: nobody speaks until it is back',
  isLoss: true,
  make: async (cluster, primary, secondary) => {
    await cluster.lab.cut('arbiter', 'pair');
    await killInVain(cluster, primary, secondary, () => cluster.lab.heal());
    return nothing;
  },
};

export const ETCD_FAULTS: readonly Fault[] = [
  {
    name: 'the arbiter is away for so long that all hosts count as gone, and nothing else happens',
    isLoss: false,
    make: async (cluster, primary, secondary) => {
      const both = [primary, secondary];
      const newest = await Promise.all(both.map((host) => host.newest()));
      await cluster.lab.cut('arbiter', 'pair');
      await Promise.all(
        both.map((host, at) =>
          host.untilEvent('no registry', newest[at]!, ({ type }) => type === 'registry-unreachable'),
        ),
      );
      await leasesGone();
      return async () => {
        await cluster.lab.heal();
        await Promise.all(
          both.map((host, at) =>
            host.untilEvent('the registry', newest[at]!, ({ type }) => type === 'registry-back'),
          ),
        );
      };
    },
  },
  AWAY_AND_BACK,
  {
    name: 'the primary’s process is killed while the arbiter is away, until no host is registered any more',
    isLoss: true,
    make: async (cluster, primary, secondary) => {
      await cluster.lab.cut('arbiter', 'pair');
      await killInVain(cluster, primary, secondary, async () => {
        await cluster.whileMute(leasesGone);
        await cluster.lab.heal();
      });
      return nothing;
    },
  },
  {
    name: 'the primary’s host does not reach the arbiter, and its process is killed',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await lab.cutBetween(primary.name, 'arbiter', 'pair');
      signal(await primary.vmPid(), 'SIGKILL');
      return () => lab.heal();
    },
  },
  {
    name: 'the primary’s host does not reach the arbiter, and the secondary’s process is killed',
    isLoss: true,
    make: async (cluster, primary, secondary) => {
      const newest = await primary.newest();
      await cluster.lab.cutBetween(primary.name, 'arbiter', 'pair');
      signal(await secondary.vmPid(), 'SIGKILL');
      await primary.untilEvent('the question', newest, ({ type }) => type === 'peer-lost');
      await cluster.whileMute(() =>
        primary.untilEvent('no answer', newest, ({ type }) => type === 'arbiter-unreachable'),
      );
      await cluster.lab.heal();
      return nothing;
    },
  },
  {
    name: 'every cable of the primary’s host is cut: it can ask nobody, and is not heard when it is back',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await Promise.all((['lan', 'pair', 'beat'] as const).map((network) => lab.cut(primary.name, network)));
      return () => lab.heal();
    },
  },
  {
    name: 'every answer of the arbiter is two seconds late, and the primary’s process is killed',
    isLoss: true,
    make: async ({ lab }, primary) => {
      await lab.wire('arbiter', 'pair', { delayMs: 1_000 });
      signal(await primary.vmPid(), 'SIGKILL');
      return () => lab.wire('arbiter', 'pair', {});
    },
  },
];

export const FOLDER_FAULTS: readonly Fault[] = [
  {
    name: 'the arbiter’s folder is not mounted at the primary, whose process is killed',
    isLoss: true,
    make: async ({ arbiterFolder }, primary) => {
      await primary.hideFolder(arbiterFolder);
      signal(await primary.vmPid(), 'SIGKILL');
      return () => primary.showFolder(arbiterFolder);
    },
  },
  {
    name: 'the arbiter’s folder is mounted nowhere, and the primary’s process is killed: nobody speaks until it is',
    isLoss: true,
    make: async (cluster, primary, secondary) => {
      const { hosts, arbiterFolder } = cluster;
      await Promise.all(hosts.map((host) => host.hideFolder(arbiterFolder)));
      await killInVain(cluster, primary, secondary, async () => {
        await Promise.all(hosts.map((host) => host.showFolder(arbiterFolder)));
      });
      return nothing;
    },
  },
];
