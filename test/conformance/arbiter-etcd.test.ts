/** The arbiter contract on a cluster of three etcd. */
import { EtcdArbiter } from '../../src/ha/arbiter/etcd-arbiter.ts';
import { EtcdCluster, noEtcd } from '../helpers/etcd.ts';
import { arbiterSuite } from './arbiter.ts';

arbiterSuite(
  'etcd',
  async () => {
    const cluster = await EtcdCluster.start(3);
    const { endpoints } = cluster;
    const patient = { endpoints, deadlineMs: 30_000, attemptMs: 5_000, watchMs: 50 };
    return { open: () => new EtcdArbiter(patient), remove: () => cluster.remove() };
  },
  noEtcd,
);
