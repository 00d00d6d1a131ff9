/**
 * The states of a job as two tables: which state may follow which, and which command a job takes in which state.
 * Facts: QEMU qapi/job.json (JobStatus, JobVerb); the transitions and refusals asked of QEMU 7.2 over QMP.
 * docs/states/jobs.md shows the same as a picture; a test compares the two.
 */
import { ColoError } from '../../base/errors.ts';

/** QEMU's job states (qapi/job.json, JobStatus). */
export type JobStatus =
  | 'undefined'
  | 'created'
  | 'running'
  | 'paused'
  | 'ready'
  | 'standby'
  | 'waiting'
  | 'pending'
  | 'aborting'
  | 'concluded'
  | 'null';

/** Commands that a job can be given (qapi/job.json, JobVerb). */
export type JobVerb = 'cancel' | 'pause' | 'resume' | 'set-speed' | 'complete' | 'finalize' | 'dismiss';

export const NEXT_STATES: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  undefined: ['created'],
  created: ['running', 'aborting', 'null'],
  running: ['paused', 'ready', 'waiting', 'aborting'],
  paused: ['running'],
  ready: ['standby', 'waiting', 'aborting'],
  standby: ['ready'],
  waiting: ['pending', 'aborting'],
  pending: ['aborting', 'concluded'],
  aborting: ['concluded'],
  concluded: ['null'],
  null: [],
};

const LIVE: readonly JobStatus[] = ['created', 'running', 'paused', 'ready', 'standby'];

export const VERB_STATES: Readonly<Record<JobVerb, readonly JobStatus[]>> = {
  cancel: [...LIVE, 'waiting', 'pending'],
  pause: LIVE,
  resume: LIVE,
  'set-speed': LIVE,
  complete: ['ready', 'standby'],
  finalize: ['pending'],
  dismiss: ['concluded'],
};

/** Throws with QEMU's text when the job does not take the command in its state. */
export function requireVerb(id: string, status: JobStatus, verb: JobVerb): void {
  if (!VERB_STATES[verb].includes(status)) refuseVerb(id, status, verb);
}

/** Throws QEMU's refusal of a command. */
export function refuseVerb(id: string, status: JobStatus, verb: JobVerb): never {
  throw new ColoError(`Job '${id}' in state '${status}' cannot accept command verb '${verb}'`);
}
