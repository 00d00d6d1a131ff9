/**
 * High availability, without the daemon that drives it (src/node/): `spec/` what a person writes about VMs and hosts,
 * `views.ts` what the cluster tells about itself, `arbiter/` the record that says who may go on alone, `side.ts` what one
 * side does with it, `life/` the life of a VM, `beat/` heartbeats between hosts and what their silence means, `registry/`
 * where hosts and VMs are found, `placement.ts` which host gets a copy, `room.ts` and `room/` the processes of one host,
 * `disks/` what the disks of a VM on one host are, `pair-links.ts` the sockets of one pair; `procedure.ts`,
 * `command-line.ts`, `resync.ts`, `names.ts` QEMU's COLO procedure as QMP calls and options.
 */
export * from './arbiter/index.ts';
export * from './disks/index.ts';
export type { PairLinks } from './pair-links.ts';
export type { PortLease, Room, RunningVm, VmDisk, VmExit } from './room.ts';
export * from './views.ts';
