/**
 * Nobody types failover: real daemons, real guests and a real client on three hosts in network namespaces, an etcd in a
 * fourth, and four failures that are most unlike: a process dies, a whole host freezes and wakes up, the link between the
 * copies is cut, a process dies while nobody can be asked. All others: test/chaos/.
 */
import { noEtcd } from '../helpers/etcd.ts';
import { AWAY_AND_BACK } from './ha-faults-arbiter.ts';
import { FROZEN, KILLED, LINK_CUT } from './ha-faults.ts';
import { survive } from './ha-story.ts';

survive(
  'a VM survives what happens to its hosts, unattended',
  [KILLED, FROZEN, LINK_CUT, AWAY_AND_BACK],
  { hasArbiter: true },
  noEtcd,
);
