/**
 * The engine on stock QEMU. engine.ts: the contract and its states; machine.ts: a QEMU process with what is its own;
 * standby.ts: the one that waits to take over; surroundings.ts: what they share; child.ts: the process; hidden-socket.ts:
 * sockets without a name; ports.ts: its NICs and serial ports; disk-port.ts: its disks over NBD; state.ts: device state
 * out of one QEMU and into another; device-codec.ts, device-history.ts: how it travels; guest-clock.ts: the clock in it;
 * args.ts: its command line; build.ts: what a pair must have alike; probe.ts: which QEMU it is, accelerator.ts: what it
 * can run on, brief-qemu.ts asks for both; refusal.ts: why it refused; spec.ts: what is asked for.
 */
export { QemuEngine } from './engine.ts';
export { chooseAccelerator } from './accelerator.ts';
export type { Accelerator } from './accelerator.ts';
export { findProgram, probeQemu, QemuUnusableError } from './probe.ts';
export type { QemuProbe } from './probe.ts';
export { escapeOption } from './spec.ts';
export type { QemuDiskSpec, QemuNicSpec, QemuSpec } from './spec.ts';
