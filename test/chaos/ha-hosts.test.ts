/** Hosts that go on with something amiss: a folder of the arbiter's that is not mounted, a full disk, a clock that jumps. */
import { existsSync } from 'node:fs';
import { FOLDER_FAULTS } from '../e2e/ha-faults-arbiter.ts';
import { CLOCK_FAULTS, FULL_DISK_FAULTS } from '../e2e/ha-faults-hosts.ts';
import { FAKETIME } from '../e2e/ha-lab.ts';
import { survive } from '../e2e/ha-story.ts';

survive(
  'a VM survives what happens in its hosts, unattended',
  [...FOLDER_FAULTS, ...CLOCK_FAULTS, ...FULL_DISK_FAULTS],
  { stateMiB: 128, hasClocks: true },
  existsSync(FAKETIME) ? false : `no ${FAKETIME} (Debian: faketime)`,
);
