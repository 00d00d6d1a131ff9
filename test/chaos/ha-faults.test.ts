/** All failures of ha-faults.ts, one after the other, again until there were COLO_CHAOS of them. */
import { FAULTS } from '../e2e/ha-faults.ts';
import { survive } from '../e2e/ha-story.ts';

const rounds = Math.max(1, Math.ceil(Number(process.env['COLO_CHAOS'] ?? '1') / FAULTS.length));

survive(
  'a VM survives everything that happens to its hosts, unattended',
  Array.from({ length: rounds }, () => FAULTS).flat(),
);
