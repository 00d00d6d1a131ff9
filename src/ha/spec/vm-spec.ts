/**
 * What a person wrote about one VM, with every default filled in. Read from YAML by vm-file.ts, kept in the registry as
 * JSON, given to whoever starts the VM. Everything that the guest can see is in here, so that both copies get the same.
 */

/** Of the file and of the JSON. A reader takes this one and the one before it. */
export const VM_SPEC_VERSION = 1;

export const VM_ENGINES = ['v86', 'tcg', 'kvm'] as const;
export type VmEngine = (typeof VM_ENGINES)[number];

export const VM_DISPLAYS = ['vnc', 'none'] as const;
export type VmDisplay = (typeof VM_DISPLAYS)[number];

export interface VmSpec {
  readonly version: typeof VM_SPEC_VERSION;
  /** 1 to 63 of a-z, 0-9 and '-', beginning with a letter. Unique in the cluster. */
  readonly name: string;
  readonly engine: VmEngine;
  /** Path of the qemu-system-x86_64 on every host; engines tcg and kvm only. */
  readonly qemu?: string;
  /** What shows its screen; absent: see displayOf. */
  readonly display?: VmDisplay;
  readonly cpus: number;
  readonly memoryMiB: number;
  /** At least one; the first is booted from. */
  readonly disks: readonly DiskSpec[];
  readonly nics: readonly NicSpec[];
  /** Hosts that may carry it; empty: any. */
  readonly hosts: readonly string[];
  readonly checkpoint: CheckpointSpec;
  readonly heartbeat: HeartbeatSpec;
  readonly resync: ResyncSpec;
  /** Further options of QEMU's for `colo vm`, one word each, the same on every host. */
  readonly options: readonly string[];
}

export interface DiskSpec {
  /** `disk0`, `disk1`, …: names the files on every host. */
  readonly id: string;
  /** What the disk is filled from at the very first start, on the host that starts it; absent: an empty disk. */
  readonly image?: string;
  /** Guest-visible size; absent: the image's. */
  readonly sizeBytes?: number;
  /** `-drive if=`: ide, virtio, scsi (v86: ide only). */
  readonly interface: 'ide' | 'virtio' | 'scsi';
}

export interface NicSpec {
  /** `nic0`, `nic1`, … */
  readonly id: string;
  readonly mac: string;
  /** A device of the engine's: ne2k_pci, virtio-net-pci, e1000, … */
  readonly model: string;
  /** Where its cable ends, on every host. */
  readonly edge: NicEdge;
}

export type NicEdge =
  /** A TAP device that the node makes and puts into this bridge of the host. */
  | { readonly kind: 'bridge'; readonly bridge: string }
  /** A TAP device that is there. */
  | { readonly kind: 'tap'; readonly ifname: string }
  /** A stream socket: `colo switch`, for hosts without root. `unix:PATH` or `tcp:HOST:PORT`. */
  | { readonly kind: 'switch'; readonly address: string };

export interface CheckpointSpec {
  /** x-checkpoint-delay, milliseconds. */
  readonly maxDelayMs: number;
}

/** Milliseconds. A peer that says nothing for `patienceMs` is suspected. */
export interface HeartbeatSpec {
  readonly intervalMs: number;
  readonly patienceMs: number;
  /** How long a cut link is ridden out when the other copy is known to live. */
  readonly linkPatienceMs: number;
}

export interface ResyncSpec {
  /** 0: as fast as it goes. */
  readonly bytesPerSecond: number;
}

/** A QEMU has a VNC server, on a unix socket of the node's, unless something else is said. */
export function displayOf({
  engine,
  display,
  options,
}: Pick<VmSpec, 'engine' | 'display' | 'options'>): VmDisplay {
  return display ?? (engine === 'v86' || options.some(isVnc) ? 'none' : 'vnc');
}

/** An option word that gives the guest a VNC server of the writer's own. */
export function isVnc(word: string): boolean {
  return /^--?vnc$/.test(word);
}
