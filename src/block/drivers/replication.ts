/** The `replication` driver; see replication/. */
export { ReplicationDriver, findReplications, isReplication } from './replication/driver.ts';
export type { PartedRecord, ReplicationOptions } from './replication/driver.ts';
export { openReplication } from './replication/open.ts';
export type { ReplicationMode, Stage } from './replication/routing.ts';
