/** The registry contract on a cluster of three etcd. */
import { EtcdRegistry } from '../../src/ha/registry/etcd-registry.ts';
import { EtcdCluster, noEtcd } from '../helpers/etcd.ts';
import { registrySuite } from './registry.ts';

registrySuite(
  'etcd',
  async () => {
    const cluster = await EtcdCluster.start(3);
    const { endpoints } = cluster;
    const patient = { endpoints, deadlineMs: 30_000, attemptMs: 5_000, leaseSeconds: 5, countersMs: 0 };
    return { open: () => new EtcdRegistry(patient), remove: () => cluster.remove() };
  },
  noEtcd,
);
