/**
 * A protected pair of real processes with a real guest, a switch and a client that must not notice anything: the demo's
 * parts in a test's hands. One boot serves many subtests: whoever survives is protected again with a new secondary.
 * Every VM's netdev passes a relay, so that a test sees what it says.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { withDeadline } from '../../src/base/async.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { waitForGuest } from '../../src/demo/guest-ready.ts';
import {
  createSecondaryDisks,
  demoSpec,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from '../../src/demo/hosts.ts';
import { HOSTS, pairLinks, protect } from '../../src/demo/pair.ts';
import { EMBEDDED } from '../../src/demo/platform.ts';
import type { Platform } from '../../src/demo/platform.ts';
import type { DemoMachine } from '../../src/demo/hosts.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import type { Teller } from '../../src/demo/report.ts';
import { VmProcess } from '../../src/demo/vm-process.ts';
import { Workload } from '../../src/demo/workload.ts';
import type { PairLinks } from '../../src/ha/pair-links.ts';
import {
  addPacketPath,
  addPrimaryChardevs,
  attachReplication,
  awaitResync,
  cutMirrors,
  exportSecondaryDisks,
  failoverPrimary,
  failoverSecondary,
  removePrimaryChardevs,
  startColo,
  startResync,
} from '../../src/ha/procedure.ts';
import { startSwitch } from '../../src/switch/index.ts';
import type { RunningSwitch } from '../../src/switch/index.ts';
import type { Noted } from '../helpers/frame-relay.ts';
import { FrameRelay } from '../helpers/frame-relay.ts';
import { whyNoQemu } from '../interop/net/qemu.ts';

const run = promisify(execFile);

/** Where `colo test` says the guest images are that `colo guest` made. */
const GUEST_VARIABLE = { i386: 'COLO_GUEST_IMAGE', amd64: 'COLO_GUEST_IMAGE_AMD64' } as const;

/** Why a test cannot have a guest on `platform`, or false. */
export function whyNoGuest({ arch, engine }: Platform): string | false {
  const variable = GUEST_VARIABLE[arch];
  if (process.env[variable] === undefined) return `set ${variable} to a guest made by colo guest`;
  return engine === 'qemu' ? whyNoQemu() : false;
}
export const skipWithoutGuest = whyNoGuest(EMBEDDED);

const BOOT_MS = 300_000;
/** Any single step; generous, as the machine may be loaded. */
export const STEP_MS = 60_000;

const quiet: Teller = {
  step: () => undefined,
  trouble: () => undefined,
  progress: () => ({ update: () => undefined, done: () => undefined }),
};

/** One VM and what passed its netdev's socket, oldest first. */
export interface Member {
  readonly vm: VmProcess;
  /** The image that the guest's disk ends up in. */
  readonly disk: string;
  readonly frames: Noted[];
  /** Called for each frame before it passes on. */
  onFrame: ((noted: Noted) => void) | null;
}

/** Where each side believes the other's sockets to be: a test puts relays in between. */
export interface PairView {
  readonly primary: PairLinks;
  readonly secondary: PairLinks;
}

export interface RigOptions {
  /** At the end of each VM's command line. */
  readonly words?: (name: string) => readonly string[];
  /** As PairRig.edit, from the first VM on. */
  readonly edit?: (word: string) => string;
}

export class PairRig {
  readonly platform: Platform;
  readonly folder: string;
  readonly network: RunningSwitch;
  readonly troubles: string[] = [];
  /** The guest's HTTP service, on this machine. */
  readonly httpPort: number;
  primary!: Member;
  secondary: Member | null = null;
  workload!: Workload;
  /** Changes the words of the command lines of VMs that are started from now on. */
  edit = (word: string): string => word;
  /** Of the guest's disk. */
  readonly lengthBytes: number;
  readonly #cleanUp: (() => Promise<unknown>)[] = [];
  /** At the end of each VM's command line. */
  #words: (name: string) => readonly string[] = () => [];
  #generation = 0;

  /** What the procedure has to know; where the switch is does not matter to it. */
  get spec(): VmSpec {
    const { platform } = this;
    return demoSpec({ platform, memoryMiB: platform.memoryMiB, switchPath: '/' });
  }

  private constructor(
    platform: Platform,
    folder: string,
    network: RunningSwitch,
    httpPort: number,
    sizeBytes: number,
  ) {
    this.platform = platform;
    this.folder = folder;
    this.httpPort = httpPort;
    this.network = network;
    this.lengthBytes = sizeBytes;
  }

  /** A guest that serves, and a client with a session and a ledger. */
  static async boot(
    platform = EMBEDDED,
    { words = () => [], edit = (word) => word }: RigOptions = {},
  ): Promise<PairRig> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-pair-'));
    const [session, ledger, http] = (await freePorts(3, ['127.0.0.1'])) as [number, number, number];
    const disk = path.join(folder, 'primary.qcow2');
    await run('qemu-img', ['convert', '-O', 'qcow2', process.env[GUEST_VARIABLE[platform.arch]]!, disk]);
    const network = await startSwitch({
      listen: [`unix:${path.join(folder, 'switch.sock')}`],
      nat: {
        hostForwards: [
          `tcp:127.0.0.1:${session}-10.0.2.15:7001`,
          `tcp:127.0.0.1:${ledger}-10.0.2.15:7000`,
          `tcp:127.0.0.1:${http}-10.0.2.15:80`,
        ],
      },
    });
    const rig = new PairRig(platform, folder, network, http, await imageSize(disk));
    rig.#words = words;
    rig.edit = edit;
    try {
      rig.primary = await rig.#start('primary', HOSTS[0], disk, (machine) =>
        firstPrimaryArguments(machine, disk),
      );
      await waitForGuest(rig.primary.vm.qmp, session, BOOT_MS, quiet);
      rig.workload = new Workload({
        host: '127.0.0.1',
        sessionPort: session,
        ledgerPort: ledger,
        intervalMs: 30,
        patienceMs: STEP_MS,
        onTrouble: (what) => rig.troubles.push(what),
      });
      rig.workload.start();
      return rig;
    } catch (error) {
      await rig.close();
      throw error;
    }
  }

  /** A new secondary on the other host, resynced; ends when the first checkpoint has been taken. */
  async protect(view: (at: PairLinks) => Promise<PairView> | PairView = plain): Promise<void> {
    const { vm } = this.primary;
    const at = await pairLinks(vm.host);
    const seen = await view(at);
    const secondary = await this.#addSecondary(at, seen.secondary);
    // The export is where both say it is; the relays are on the packet and checkpoint connections.
    await protect(vm, secondary.vm, this.spec, seen.primary, quiet);
  }

  /**
   * As `protect`, with the disk of a side that has died, and by what the survivor remembers of it. Checks that the two
   * disks are equal at the cut. Returns how many bytes were copied.
   */
  async protectWithOldDisk(disk: string): Promise<number> {
    const { qmp } = this.primary.vm;
    const at = await pairLinks(this.primary.vm.host);
    const secondary = await this.#addSecondary(at, at, disk);
    await exportSecondaryDisks(secondary.vm.qmp, this.spec, at);
    const ended = qmp.waitFor('BLOCK_JOB_COMPLETED', ({ data }) => data['type'] === 'mirror', STEP_MS);
    await startResync(qmp, this.spec, at, 'parted');
    await awaitResync(qmp, this.spec);
    await qmp.execute('stop');
    await cutMirrors(qmp, this.spec);
    const { data } = await ended;
    assert.equal(data['error'], undefined);
    const images = ['-U', '-f', 'qcow2', '-F', 'qcow2', this.primary.disk, disk];
    assert.match((await run('qemu-img', ['compare', ...images])).stdout, /Images are identical/);
    await attachReplication(qmp, this.spec, at);
    await addPacketPath(qmp, this.spec);
    const running = secondary.vm.qmp.waitFor('RESUME', () => true, STEP_MS);
    await startColo(qmp, this.spec, at);
    await running;
    await qmp.execute('x-colo-checkpoint');
    return Number(data['offset']);
  }

  async #addSecondary(at: PairLinks, seen: PairLinks, oldDisk?: string): Promise<Member> {
    const name = `secondary-${++this.#generation}`;
    const fresh = await createSecondaryDisks(path.join(this.folder, name), this.lengthBytes);
    const disks = { ...fresh, parent: oldDisk ?? fresh.parent };
    await addPrimaryChardevs(this.primary.vm.qmp, this.spec, at);
    this.secondary = await this.#start(name, at.secondaryHost, disks.parent, (machine) =>
      secondaryArguments(machine, disks, seen),
    );
    return this.secondary;
  }

  /** Types the lines with which the secondary takes over; it is the primary then. Returns the old primary. */
  async takeOver(): Promise<Member> {
    const old = this.primary;
    const survivor = this.#requireSecondary();
    await failoverSecondary(survivor.vm.qmp, this.spec);
    this.primary = survivor;
    this.secondary = null;
    return old;
  }

  /** Types the lines with which the primary goes on alone. Returns the old secondary. */
  async goOnAlone(): Promise<Member> {
    const old = this.#requireSecondary();
    const { qmp } = this.primary.vm;
    await failoverPrimary(qmp, this.spec);
    await removePrimaryChardevs(qmp, this.spec);
    this.secondary = null;
    return old;
  }

  /** Kills the secondary and goes on alone. Returns it. */
  async loseSecondary(): Promise<Member> {
    await this.#requireSecondary().vm.kill();
    return this.goOnAlone();
  }

  /** Resolves when the client has had `count` further answers to questions that it asked from now on. */
  async answered(count = 1): Promise<void> {
    for (let at = 0; at < count; at++) {
      await withDeadline(
        this.workload.firstReplyAfter(performance.now()),
        STEP_MS,
        'an answer from the guest',
      );
    }
  }

  /** The client's verdict: nothing was dropped, nothing acknowledged was lost. */
  async assertNothingLost(): Promise<void> {
    const report = await this.workload.stop();
    assert.deepEqual(this.troubles, []);
    assert.equal(report.connectionsLost, 0);
    assert.equal(report.ledgerLinesLost, 0);
    assert.ok(report.ledgerLines > 20, `${report.ledgerLines} ledger lines`);
  }

  async close(): Promise<void> {
    for (const undo of this.#cleanUp.reverse()) await undo().catch(() => undefined);
    await this.network.close();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Done when the rig is closed. */
  onClose(undo: () => Promise<unknown>): void {
    this.#cleanUp.push(undo);
  }

  #requireSecondary(): Member {
    assert.ok(this.secondary, 'there is no secondary');
    return this.secondary;
  }

  async #start(
    name: string,
    host: string,
    disk: string,
    args: (machine: DemoMachine) => string[],
  ): Promise<Member> {
    const switchPath = path.join(this.folder, `${name}.net`);
    const member: { frames: Noted[]; onFrame: Member['onFrame'] } = { frames: [], onFrame: null };
    const relay = await FrameRelay.start({
      listen: { path: switchPath },
      target: { path: path.join(this.folder, 'switch.sock') },
      onFrame: (noted) => {
        member.frames.push(noted);
        member.onFrame?.(noted);
      },
    });
    this.onClose(() => relay.close());
    const { platform } = this;
    const words = args({ platform, memoryMiB: platform.memoryMiB, switchPath }).map(this.edit);
    words.push(...this.#words(name));
    const vm = await VmProcess.start(name, host, this.folder, words);
    this.onClose(() => vm.kill());
    return Object.assign(member, { vm, disk });
  }
}

const plain = (at: PairLinks): PairView => ({ primary: at, secondary: at });

export function freeze(vm: VmProcess): void {
  process.kill(vm.pid, 'SIGSTOP');
}

export function unfreeze(vm: VmProcess): void {
  process.kill(vm.pid, 'SIGCONT');
}
