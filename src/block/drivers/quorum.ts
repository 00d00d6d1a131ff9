/** The `quorum` driver; see quorum/. */
export { QuorumDriver } from './quorum/driver.ts';
export type { QuorumOptions, ReadPattern } from './quorum/driver.ts';
export { openQuorum } from './quorum/open.ts';
