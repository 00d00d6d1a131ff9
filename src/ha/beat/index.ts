/** Heartbeats between the daemons of hosts, and what is made of their silence. docs/failures.md. */
export { DIAGNOSES, diagnose } from './diagnose.ts';
export type { Diagnosis, DiagnosisKind, Evidence } from './diagnose.ts';
export { othersEvidence, peerEvidence } from './evidence.ts';
export { Heartbeats } from './heartbeats.ts';
export type { HeartbeatHooks, HeartbeatOptions } from './heartbeats.ts';
export type { Condition, VmBeat } from './messages.ts';
export type { PeerState, PeerStatus, PeerVm } from './peers.ts';
export { probe } from './prober.ts';
export type { Probe } from './prober.ts';
export { VmWatch } from './vm-watch.ts';
export type { VmPulse, VmWatchOptions, WatchedVm } from './vm-watch.ts';
export { Witness } from './witness.ts';
export type { Suspicion, WitnessOptions } from './witness.ts';
