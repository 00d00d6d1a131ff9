/** What a VM's controller is given by its daemon. */
import type { PeerService } from '../api/service.ts';
import type { Arbiter } from '../ha/arbiter/index.ts';
import type { DisksKind } from '../ha/disks/index.ts';
import type { Witness } from '../ha/beat/index.ts';
import type { Side } from '../ha/side.ts';
import type { HaEvent, HostView, PairLinks, Room, RunningVm, VmDisk } from '../ha/index.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { RecordId } from '../ha/arbiter/index.ts';

/** The disks of one VM on this host; vm-disks.ts makes it of ha/disks. Nothing here may be done while they are used otherwise. */
export interface VmDisks {
  readonly kind: DisksKind;
  /** Made where there are none yet, merged where a take-over was cut short. Throws ColoError when they may not be started from. */
  forStart(spec: VmSpec, of: RecordId): Promise<readonly VmDisk[]>;
  /** The target of a resync. `pairing`: of the pair at whose end the inviter's bitmap began. */
  forJoin(
    sizes: readonly { readonly id: string; readonly sizeBytes: number }[],
    pairing: RecordId | null,
  ): Promise<{ readonly disks: readonly VmDisk[]; readonly isBitmapEnough: boolean }>;
  /** What a running guest's disks are. */
  current(): readonly VmDisk[];
  /** While the arbiter is asked: what a take-over would have to flush. */
  settle(qmp: RunningVm['qmp']): Promise<void>;
  note(event: DisksNote): Promise<void>;
  remove(): Promise<void>;
}

export type DisksNote =
  | { readonly type: 'holds' | 'loaded' | 'takes-over'; readonly of: RecordId }
  | { readonly type: 'merged' | 'gave-way' | 'left' };

export interface ControllerParts {
  readonly host: string;
  /** Of this host, for the pairs' links. */
  readonly address: string;
  /** With QEMU's tls-creds-x509 names; absent: the links are in clear. */
  readonly tlsFolder?: string;
  /** How long this daemon has been there, milliseconds. */
  upMs(): number;
  /** The host for a new secondary, or null. `refused`: have said no just now. */
  chooseSecondary(
    spec: VmSpec,
    wish: { readonly refused: readonly string[]; readonly oldDiskHost: string | null },
  ): string | null;
  readonly arbiter: Arbiter;
  readonly room: Room;
  readonly disks: VmDisks;
  peer(host: string): PeerService;
  /** What is known of the other copy's host. */
  readonly witness: Pick<Witness, 'look' | 'lookAgain'>;
  /** Monotonic milliseconds. */
  now(): number;
  hosts(): readonly HostView[];
  tell(event: Omit<HaEvent, 'version' | 'sequence' | 'time' | 'host' | 'vm'>): void;
  /** Something that others see has changed. */
  publish(): void;
  saveSide(side: Side | null): void;
  loadSide(): Side | null;
  /** The guest has ended by itself. */
  guestEnded(): void;
  readonly steps: Steps;
  /** Folder for this VM's sockets. */
  readonly runFolder: string;
}

/** The lines of QEMU's procedure, whole steps of it; see ha/procedure.ts. Every step may be done twice. */
export interface Steps {
  /** Secondary: its disks can be written by the primary. */
  exportDisks(vm: RunningVm, spec: VmSpec, links: PairLinks): Promise<void>;
  /** Primary: the packet sockets that the secondary connects to. */
  openPacketSockets(vm: RunningVm, spec: VmSpec, links: PairLinks): Promise<void>;
  /** Primary: until the secondary's disks are equal and kept so. */
  resync(
    vm: RunningVm,
    spec: VmSpec,
    links: PairLinks,
    options: {
      readonly isBitmapEnough: boolean;
      readonly signal: AbortSignal;
      readonly onProgress: (doneBytes: number, totalBytes: number) => void;
    },
  ): Promise<void>;
  /** Primary: hands the guest over. Resolves when both run. */
  enterColo(vm: RunningVm, spec: VmSpec, links: PairLinks): Promise<void>;
  /** Whatever stage protection had reached: this side goes on alone, and nothing of the pair is left. */
  primaryAlone(vm: RunningVm, spec: VmSpec): Promise<void>;
  /** Secondary, while the arbiter is asked: nothing reaches its disks from outside any more. */
  cutExports(vm: RunningVm): Promise<void>;
  /** Resolves when the guest is heard. */
  secondaryAlone(vm: RunningVm, spec: VmSpec): Promise<void>;
}
