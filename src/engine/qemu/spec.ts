/**
 * What the QEMU engine is asked to build. Whoever reads a command line makes this (vm/); the engine adds what is its
 * own: the RAM file, its control socket, where disks, NICs and serial ports are reached.
 */
import type { EngineDisk } from '../engine.ts';
import type { QemuProbe } from './probe.ts';

export interface QemuNicSpec {
  readonly id: string;
  /** Id of the netdev that the guest's device names; the engine makes it. */
  readonly netdev: string;
  /** Six bytes. */
  readonly mac: Uint8Array;
  /** A virtio NIC: the guest is offered offloads, and its rings are served here (vhost/). */
  readonly isVirtio?: boolean;
  /** Its frames have a virtio-net header here, which says what the guest has left to others. */
  readonly hasVnetHeader?: boolean;
}

export interface QemuDiskSpec {
  readonly disk: EngineDisk;
  /** How QEMU is told of it: `drive` (-drive: it may make the device too) or `blockdev` (a node for -device). */
  readonly how: 'drive' | 'blockdev';
  /** Further options of -drive or -blockdev as `key=value`, already escaped: if=, index=, werror=… */
  readonly options: readonly string[];
}

export interface QemuSpec {
  readonly qemu: QemuProbe;
  readonly name: string;
  readonly ramBytes: number;
  /** The value of -machine without memory-backend. */
  readonly machine: string;
  /** Options passed through as they are, in order: -cpu, -smp, -device, -vnc… */
  readonly args: readonly string[];
  /** MSI-X interrupts of a NIC that is served here reach the guest (kernel-irqchip of KVM). */
  readonly hasIrqfd?: boolean;
  /** What both sides of a pair must have alike beside RAM, disks and NICs: part of the build id. */
  readonly identity: readonly string[];
  readonly disks: readonly QemuDiskSpec[];
  readonly nics: readonly QemuNicSpec[];
  /** The guest's serial ports, ttyS0 first. */
  readonly serialPorts: number;
  /** Options of -vnc behind the address, `,`-separated; null: no screen. */
  readonly vnc?: string | null;
  /** Ids of chardevs that passed-through options name: streams like serial ports, behind these in Engine.serials. */
  readonly chardevs: readonly string[];
  /** It waits for another machine's state instead of starting one. */
  readonly incoming: boolean;
}

/** A comma inside a value is doubled (QEMU, util/qemu-option.c). */
export function escapeOption(value: string): string {
  return value.replaceAll(',', ',,');
}
