/**
 * The engine on stock QEMU. engine.ts: the contract; child.ts: one QEMU process; ports.ts: its NICs and serial ports on
 * our sockets; disk-port.ts: its disks over NBD; state.ts: device state out of one QEMU and into another; args.ts: its
 * command line; probe.ts: which QEMU it is; spec.ts: what is asked for; workplace.ts: where the sockets are.
 */
export { QemuEngine } from './engine.ts';
export { probeQemu, QemuUnusableError } from './probe.ts';
export type { QemuProbe } from './probe.ts';
export { escapeOption } from './spec.ts';
export type { QemuDiskSpec, QemuNicSpec, QemuSpec } from './spec.ts';
