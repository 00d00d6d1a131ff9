/**
 * Nobody types failover: real daemons, real guests and a real client on three hosts in network namespaces, and the two
 * failures that are most unlike: a process dies, and a whole host freezes and wakes up. All others: test/chaos/.
 */
import { QUICK_FAULTS } from './ha-faults.ts';
import { survive } from './ha-story.ts';

survive('a VM survives what happens to its hosts, unattended', QUICK_FAULTS);
