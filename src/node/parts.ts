/** What a VM's controller is given by its daemon. */
import type { PeerService } from '../api/service.ts';
import type { Arbiter } from '../ha/arbiter/index.ts';
import type { PeerState, Probe } from '../ha/beat/index.ts';
import type { Side } from '../ha/side.ts';
import type { HaEvent, HostView, PairLinks, Room, RunningVm, VmDisk } from '../ha/index.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { RecordId } from '../ha/arbiter/index.ts';

/** The disks of one VM on this host. */
export interface VmDisks {
  readonly state: 'none' | 'whole' | 'stale' | 'replica' | 'merging' | 'syncing';
  /** Made where there are none yet, merged where a take-over was cut short. Throws ColoError when they may not be started from. */
  forStart(spec: VmSpec): Promise<readonly VmDisk[]>;
  /** Empty ones, or with `bitmapSince` the old ones if only what changed since has to be copied. */
  forJoin(
    spec: VmSpec,
    sizes: readonly { readonly id: string; readonly sizeBytes: number }[],
    bitmapSince: RecordId | null,
  ): Promise<{ readonly disks: readonly VmDisk[]; readonly isBitmapEnough: boolean }>;
  /** What a running guest's disks are. */
  current(spec: VmSpec): readonly VmDisk[];
  mark(state: 'whole' | 'replica' | 'merging' | 'stale', record: RecordId): Promise<void>;
  purge(): Promise<void>;
}

/** What the nodes' own heartbeat says, and what else is known of who can be reached. */
export interface Beats {
  peer(host: string): PeerState;
  whoHears(host: string): { readonly hears: readonly string[]; readonly misses: readonly string[] };
  /** This daemon stood still a moment ago. */
  stoodStill(): boolean;
  /** Whether anybody but `host` can be reached from here: another host, or the arbiter. */
  anybodyElse(host: string): 'yes' | 'no' | 'unknown';
  /** A fresh connection to the API of `host`. */
  probe(host: string, ms: number): Promise<Probe>;
}

export interface ControllerParts {
  readonly host: string;
  /** Of this host, for the pairs' links. */
  readonly address: string;
  /** With QEMU's tls-creds-x509 names; absent: the links are in clear. */
  readonly tlsFolder?: string;
  /** How long this daemon has been there, milliseconds. */
  upMs(): number;
  /** The host for a new secondary, or null. `refused`: have said no just now. */
  chooseSecondary(spec: VmSpec, refused: readonly string[]): string | null;
  readonly arbiter: Arbiter;
  readonly room: Room;
  readonly disks: VmDisks;
  peer(host: string): PeerService;
  readonly beats: Beats;
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
  /** Resolves when the guest is heard. */
  secondaryAlone(vm: RunningVm, spec: VmSpec): Promise<void>;
}
