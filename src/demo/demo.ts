/**
 * The demonstration: two hosts' worth of processes on 127.0.0.1 and 127.0.0.2, a real guest, a client that holds
 * connections through everything. Generation after generation the primary is killed with SIGKILL, the secondary goes
 * on, a new secondary is made and the pair is whole again; at the end the secondary dies instead. This file is the
 * story; processes, client and words are next to it.
 */
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ColoError } from '../base/errors.ts';
import { addPrimaryChardevs, failoverPrimary, failoverSecondary } from '../ha/procedure.ts';
import { startSwitch } from '../switch/index.ts';
import { freePorts } from './free-ports.ts';
import {
  createSecondaryDisks,
  demoSpec,
  firstPrimaryArguments,
  imageSize,
  secondaryArguments,
} from './hosts.ts';
import type { DemoMachine } from './hosts.ts';
import { HOSTS, pairLinks, protect } from './pair.ts';
import { waitForGuest } from './guest-ready.ts';
import type { Platform } from './platform.ts';
import type { DemoReport, Failover, Teller } from './report.ts';
import { VmProcess } from './vm-process.ts';
import { Workload } from './workload.ts';

export interface DemoOptions {
  /** A bootable qcow2 image; it is copied, not changed. */
  readonly image: string;
  readonly memoryMiB: number;
  /** What executes the guest: the embedded engine unless told otherwise. */
  readonly platform?: Platform | undefined;
  /** How often the primary is killed before the secondary is. */
  readonly generations: number;
  /** How long the pair stays protected before the next death, in seconds. */
  readonly protectedSec: number;
  readonly libslirp?: string | undefined;
  readonly signal?: AbortSignal;
}

const BOOT_MS = 300_000;
const CLIENT_PATIENCE_MS = 60_000;

/** Runs the story and tells it. Throws ColoError when it cannot be carried on; everything is torn down either way. */
export async function runDemo(options: DemoOptions, tell: Teller): Promise<DemoReport> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-demo-'));
  const cleanUp: (() => Promise<void>)[] = [() => rm(folder, { recursive: true, force: true })];
  try {
    return await story(options, tell, folder, cleanUp);
  } finally {
    for (const undo of cleanUp.reverse()) await undo().catch(() => undefined);
  }
}

async function story(
  options: DemoOptions,
  tell: Teller,
  folder: string,
  cleanUp: (() => Promise<void>)[],
): Promise<DemoReport> {
  const { signal } = options;
  const [httpPort, sessionPort, ledgerPort] = (await freePorts(3, ['127.0.0.1'])) as [number, number, number];
  const machine: DemoMachine = {
    memoryMiB: options.memoryMiB,
    platform: options.platform,
    switchPath: path.join(folder, 'switch.sock'),
  };
  const spec = demoSpec(machine);
  const network = await startSwitch({
    listen: [`unix:${machine.switchPath}`],
    nat: {
      hostForwards: [
        `tcp:127.0.0.1:${httpPort}-10.0.2.15:80`,
        `tcp:127.0.0.1:${sessionPort}-10.0.2.15:7001`,
        `tcp:127.0.0.1:${ledgerPort}-10.0.2.15:7000`,
      ],
      ...(options.libslirp === undefined ? {} : { libslirp: options.libslirp }),
    },
  });
  cleanUp.push(() => network.close());
  tell.step(`switch with user-mode NAT; the guest's page is at http://127.0.0.1:${httpPort}/`);

  const start = async (name: string, host: string, args: readonly string[]): Promise<VmProcess> => {
    const vm = await VmProcess.start(name, host, folder, args);
    cleanUp.push(() => vm.kill());
    return vm;
  };

  const image = path.join(folder, 'host0', 'disk.qcow2');
  await mkdir(path.dirname(image));
  await copyFile(options.image, image);
  const sizeBytes = await imageSize(image);
  let primary = await start('primary-0', HOSTS[0], firstPrimaryArguments(machine, image));
  tell.step(`primary-0 (pid ${primary.pid}) starts on ${HOSTS[0]}`);
  await waitForGuest(primary.qmp, sessionPort, BOOT_MS, tell, signal);

  const workload = new Workload({
    host: '127.0.0.1',
    sessionPort,
    ledgerPort,
    intervalMs: 20,
    patienceMs: CLIENT_PATIENCE_MS,
    onTrouble: (what) => tell.trouble(what),
  });
  workload.start();
  tell.step('client connected: one session, one ledger; both stay open from here on');

  const failovers: Failover[] = [];
  const pauses: number[] = [];
  let checkpoints = 0;
  const collect = async (vm: VmProcess): Promise<void> => {
    const said = (await vm.qmp.execute('query-colo-checkpoints')) as {
      count: number;
      records: { pauseMs: number }[];
    };
    checkpoints += said.count;
    pauses.push(...said.records.map((record) => record.pauseMs));
  };

  for (let generation = 1; generation <= options.generations + 1; generation++) {
    signal?.throwIfAborted();
    const links = await pairLinks(primary.host);
    const disks = await createSecondaryDisks(path.join(folder, `host${generation}`), sizeBytes);
    // The primary's servers first: the secondary's chardevs connect to them when it starts.
    await addPrimaryChardevs(primary.qmp, spec, links);
    const secondary = await start(
      `secondary-${generation}`,
      links.secondaryHost,
      secondaryArguments(machine, disks, links),
    );
    await protect(primary, secondary, spec, links, tell);
    tell.step(
      `generation ${generation}: protected by ${secondary.name} (pid ${secondary.pid}) on ${secondary.host}`,
    );
    await delay(options.protectedSec * 1000, signal);
    await collect(primary);

    if (generation <= options.generations) {
      const killed = performance.now();
      await primary.kill();
      const answered = workload.firstReplyAfter(killed);
      await failoverSecondary(secondary.qmp, spec);
      const ms = (await withinPatience(answered)) - killed;
      failovers.push({ killed: 'primary', ms });
      tell.step(
        `generation ${generation}: killed the primary (SIGKILL); ${secondary.name} answered after ${ms.toFixed(0)} ms`,
      );
      primary = secondary;
    } else {
      const killed = performance.now();
      await secondary.kill();
      const answered = workload.firstReplyAfter(killed);
      await failoverPrimary(primary.qmp, spec);
      const ms = (await withinPatience(answered)) - killed;
      failovers.push({ killed: 'secondary', ms });
      tell.step(
        `generation ${generation}: killed the secondary (SIGKILL); the primary answered alone after ${ms.toFixed(0)} ms`,
      );
    }
  }

  await delay(1000, signal);
  const client = await workload.stop();
  return { checkpoints, pausesMs: pauses, failovers, ...client };
}

async function withinPatience(answered: Promise<number>): Promise<number> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new ColoError('the guest does not answer any more')), CLIENT_PATIENCE_MS);
  });
  try {
    return await Promise.race([answered, late]);
  } finally {
    clearTimeout(timer);
  }
}

function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        reject(new ColoError('interrupted'));
      },
      { once: true },
    );
  });
}
