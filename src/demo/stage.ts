/**
 * Everything around the demo's pair: its folder, the switch with user-mode NAT, the processes, the client. Taken down in the
 * opposite order, whatever happened.
 */
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { withDeadline } from '../base/async.ts';
import { failoverPrimary, failoverSecondary, addPrimaryChardevs } from '../ha/procedure.ts';
import type { PairLinks } from '../ha/pair-links.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { startSwitch } from '../switch/index.ts';
import { RunningCopy } from './copy.ts';
import type { CopyPlace } from './copy.ts';
import { freePorts } from './free-ports.ts';
import { waitForGuest } from './guest-ready.ts';
import {
  createSecondaryDisks,
  demoSpec,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from './hosts.ts';
import type { DemoMachine } from './hosts.ts';
import type { KeeperParts } from './keeper.ts';
import { directCables, relayedCables } from './link-relay.ts';
import { HOSTS, protect } from './pair.ts';
import type { PairSteps } from './pairing.ts';
import type { Platform } from './platform.ts';
import type { Teller } from './report.ts';
import { Workload } from './workload.ts';

const BOOT_MS = 300_000;
export const CLIENT_PATIENCE_MS = 60_000;

export interface StageOptions {
  /** A bootable qcow2 image; it is copied, not changed. */
  readonly image: string;
  readonly memoryMiB: number;
  readonly platform: Platform;
  readonly libslirp?: string | undefined;
  readonly views: CopyPlace['views'];
  /** A Ctrl+C is the demo's alone, and the link can be cut. */
  readonly isHandsOn: boolean;
}

export class Stage {
  readonly folder: string;
  readonly spec: VmSpec;
  readonly workload: Workload;
  readonly #options: StageOptions;
  readonly #machine: DemoMachine;
  readonly #tell: Teller;
  readonly #sessionPort: number;
  readonly #undo: (() => Promise<unknown>)[] = [];
  #sizeBytes = 0;

  private constructor(folder: string, options: StageOptions, tell: Teller, ports: readonly number[]) {
    const { platform, memoryMiB } = options;
    const [, sessionPort = 0, ledgerPort = 0] = ports;
    this.folder = folder;
    this.#options = options;
    this.#tell = tell;
    this.#machine = { platform, memoryMiB, switchPath: path.join(folder, 'switch.sock') };
    this.spec = demoSpec(this.#machine);
    this.#sessionPort = sessionPort;
    this.workload = new Workload({
      ...{ host: '127.0.0.1', sessionPort, ledgerPort, intervalMs: 20, patienceMs: CLIENT_PATIENCE_MS },
      onTrouble: (what) => tell.trouble(what),
    });
    this.#undo.push(() => rm(folder, { recursive: true, force: true }));
  }

  /** The switch is there; no process yet. */
  static async set(options: StageOptions, tell: Teller): Promise<Stage> {
    const ports = await freePorts(3, ['127.0.0.1']);
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-demo-'));
    const stage = new Stage(folder, options, tell, ports);
    try {
      await stage.#openNetwork(ports);
      return stage;
    } catch (error) {
      await stage.strike();
      throw error;
    }
  }

  /** Takes everything down. */
  async strike(): Promise<void> {
    for (const undo of this.#undo.splice(0).reverse()) await undo().catch(() => undefined);
  }

  async startPrimary(): Promise<RunningCopy> {
    const image = path.join(this.folder, 'host0', 'disk.qcow2');
    await mkdir(path.dirname(image));
    await copyFile(this.#options.image, image);
    this.#sizeBytes = await imageSize(image);
    return this.#start('primary-0', HOSTS[0], firstPrimaryArguments(this.#machine, image));
  }

  /** Resolves when the guest serves and the client is connected. */
  async boot(primary: RunningCopy, signal: AbortSignal | undefined): Promise<void> {
    await waitForGuest(primary.vm.qmp, this.#sessionPort, BOOT_MS, this.#tell, signal);
    this.workload.start();
  }

  /** What the keeper does things with. */
  get pairing(): Pick<KeeperParts, 'linkPatienceMs' | 'cables' | 'startSecondary' | 'steps' | 'client'> {
    return {
      linkPatienceMs: this.spec.heartbeat.linkPatienceMs,
      cables: this.#options.isHandsOn ? relayedCables : directCables,
      startSecondary: (generation, links) => this.#startSecondary(generation, links),
      steps: this.#steps(),
      client: {
        takeNumbers: () => this.workload.takeNumbers(),
        firstReplyAfter: (atMs) =>
          withDeadline(this.workload.firstReplyAfter(atMs), CLIENT_PATIENCE_MS, 'the guest'),
      },
    };
  }

  #steps(): PairSteps {
    const { spec } = this;
    return {
      openSockets: ({ qmp }, links) => addPrimaryChardevs(qmp, spec, links),
      protect: (primary, secondary, links, options) =>
        protect(primary, secondary, spec, links, this.#tell, options),
      primaryAlone: ({ qmp }) => failoverPrimary(qmp, spec),
      secondaryAlone: ({ qmp }) => failoverSecondary(qmp, spec),
    };
  }

  async #startSecondary(generation: number, links: PairLinks): Promise<RunningCopy> {
    const folder = path.join(this.folder, `host${generation}`);
    const disks = await createSecondaryDisks(folder, this.#sizeBytes);
    const words = secondaryArguments(this.#machine, disks, links);
    return this.#start(`secondary-${generation}`, links.secondaryHost, words);
  }

  async #start(name: string, host: string, words: readonly string[]): Promise<RunningCopy> {
    const { views, isHandsOn } = this.#options;
    const place = { name, host, folder: this.folder, views, isOwnGroup: isHandsOn };
    const copy = await RunningCopy.start(place, words);
    this.#undo.push(() => copy.kill());
    if (isHandsOn) endWithUs(copy);
    return copy;
  }

  async #openNetwork([httpPort, sessionPort, ledgerPort]: readonly number[]): Promise<void> {
    const { libslirp } = this.#options;
    const network = await startSwitch({
      listen: [`unix:${this.#machine.switchPath}`],
      nat: {
        hostForwards: [
          `tcp:127.0.0.1:${httpPort ?? 0}-10.0.2.15:80`,
          `tcp:127.0.0.1:${sessionPort ?? 0}-10.0.2.15:7001`,
          `tcp:127.0.0.1:${ledgerPort ?? 0}-10.0.2.15:7000`,
        ],
        ...(libslirp === undefined ? {} : { libslirp }),
      },
    });
    this.#undo.push(() => network.close());
    this.#tell.step(`switch with user-mode NAT; the guest's page is at http://127.0.0.1:${httpPort ?? 0}/`);
  }
}

/** A process of a group of its own would go on when this one ends in a hurry. */
function endWithUs(copy: RunningCopy): void {
  const kill = (): void => void copy.kill();
  process.once('exit', kill);
  void copy.exited.then(() => process.off('exit', kill));
}
