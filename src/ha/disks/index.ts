/**
 * The disks of one VM on one host: `disk-folder.ts` is what the daemon uses, `record.ts` what disks can be and become,
 * `settle.ts` the flush before a takeover; `work.ts` does the work on images, in a process that `worker.ts` starts.
 */
export { DiskFolder, type DiskOptions, type DiskProgress } from './disk-folder.ts';
export { settleBeforeTakeOver } from './settle.ts';
export { DisksError, type DisksEvent, type DisksKind, type DisksRecord } from './record.ts';
