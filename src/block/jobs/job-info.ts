/** What a block job is started with and what it tells of itself (QEMU qapi/block-core.json, qapi/job.json). Types only. */
import type { JobStatus } from './job-states.ts';

export type JobType = 'mirror' | 'commit' | 'backup';

/** Receives QMP events, in order. */
export type EmitEvent = (event: string, data: Record<string, unknown>) => void;

/** What a failed request of the job leads to (QEMU: BlockdevOnError): `enospc` stops for a full disk only. */
export type OnError = 'report' | 'stop' | 'ignore' | 'enospc';

/** How one failed request ends: the job fails, waits for the user, or tries again. */
export type ErrorAction = 'report' | 'stop' | 'ignore';

export interface JobOptions {
  readonly id: string;
  readonly emit: EmitEvent;
  /** Bytes a second; 0: unlimited. */
  readonly speed?: number;
  /** False: the job waits in state pending for `finalize`. Default true. */
  readonly autoFinalize?: boolean;
  /** False: the job stays in state concluded until `dismiss`. Default true. */
  readonly autoDismiss?: boolean;
  /** Default report. */
  readonly onSourceError?: OnError;
  readonly onTargetError?: OnError;
}

/** One element of query-block-jobs' reply. */
export interface BlockJobInfo {
  'auto-finalize': boolean;
  'io-status': IoStatus;
  device: string;
  'auto-dismiss': boolean;
  busy: boolean;
  len: number;
  offset: number;
  status: JobStatus;
  paused: boolean;
  speed: number;
  ready: boolean;
  type: JobType;
  error?: string;
}

/** One element of query-jobs' reply. */
export interface JobInfo {
  'current-progress': number;
  status: JobStatus;
  'total-progress': number;
  type: JobType;
  id: string;
  error?: string;
}

export type IoStatus = 'ok' | 'failed' | 'nospace';
