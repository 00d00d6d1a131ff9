/**
 * High availability, without the daemon that drives it: `procedure.ts` QEMU's COLO procedure as QMP calls, `spec/` what a
 * person writes about VMs and hosts, `views.ts` what the cluster tells about itself, `room.ts` the contract of the
 * processes on one host, `pair-links.ts` the sockets of one pair, `arbiter/` the record that says
 * who may go on alone, `side.ts` what one side does with it.
 */
export * from './arbiter/index.ts';
export type { PairLinks } from './pair-links.ts';
export type { PortLease, Room, RunningVm, VmDisk, VmExit } from './room.ts';
export * from './views.ts';
