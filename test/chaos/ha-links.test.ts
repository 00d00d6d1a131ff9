/** An arbiter that is away or slow, and pairs' links that are slow, late and out of order: every such cable is a user-space one. */
import { ETCD_FAULTS } from '../e2e/ha-faults-arbiter.ts';
import { LINK_FAULTS } from '../e2e/ha-faults-links.ts';
import { survive } from '../e2e/ha-story.ts';
import { noEtcd } from '../helpers/etcd.ts';

survive(
  'a VM survives what happens to its links and to its arbiter, unattended',
  [...LINK_FAULTS, ...ETCD_FAULTS],
  {
    hasArbiter: true,
    wires: [
      ['a', 'pair'],
      ['b', 'pair'],
      ['c', 'pair'],
      ['arbiter', 'pair'],
    ],
  },
  noEtcd,
);
