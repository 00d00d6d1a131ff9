/**
 * The demonstration: two hosts' worth of processes on 127.0.0.1 and 127.0.0.2, a real guest, a client that holds
 * connections through everything, and a page to watch it. Either it tells its story (story.ts), or a person does the killing
 * (hands-on.ts). This file puts the parts together.
 */
import { EventLog } from '../api/events.ts';
import { messageOf } from '../base/errors.ts';
import type { DashboardServer } from '../dashboard/server.ts';
import { handOver } from './hands-on.ts';
import { PairKeeper } from './keeper.ts';
import { DemoPageSource } from './page-source.ts';
import { servePage } from './page.ts';
import { EMBEDDED } from './platform.ts';
import type { Platform } from './platform.ts';
import type { DemoReport, Teller } from './report.ts';
import { Stage } from './stage.ts';
import { tellStory } from './story.ts';

export interface DemoOptions {
  /** A bootable qcow2 image; it is copied, not changed. */
  readonly image: string;
  readonly memoryMiB: number;
  /** What executes the guest: the embedded engine unless told otherwise. */
  readonly platform?: Platform | undefined;
  /** How often the primary is killed before the secondary is; `hands-on`: by nobody but a person, until `signal`. */
  readonly generations: number | 'hands-on';
  /** How long the pair stays protected before the next death, in seconds. */
  readonly protectedSec: number;
  readonly libslirp?: string | undefined;
  readonly page?: PageOptions | undefined;
  readonly signal: AbortSignal;
}

export interface PageOptions {
  /** Default: the usual one, or another if that is taken. */
  readonly port?: number | undefined;
  /** Of this program. */
  readonly software: string;
  readonly onServed: (url: string) => void;
}

/** Runs it and tells it. Throws ColoError when it cannot be carried on; everything is torn down either way. */
export async function runDemo(options: DemoOptions, tell: Teller): Promise<DemoReport> {
  const { platform = EMBEDDED, generations, page } = options;
  const isHandsOn = generations === 'hands-on';
  const hasScreen = platform.engine === 'qemu';
  const views = page === undefined ? 'none' : hasScreen ? 'console-and-screen' : 'console';
  const stage = await Stage.set({ ...options, platform, views, isHandsOn }, tell);
  try {
    const events = EventLog.open(stage.folder, 'demo');
    const keeper = new PairKeeper({
      ...stage.pairing,
      vm: stage.spec.name,
      tell,
      event: (event) => void events.add(event),
    });
    const server = page && (await openPage(stage, keeper, events, page, { tell, isHandsOn }));
    try {
      return await play(stage, keeper, options, tell);
    } finally {
      keeper.close();
      events.close();
      await server?.close();
    }
  } finally {
    await stage.strike();
  }
}

async function play(
  stage: Stage,
  keeper: PairKeeper,
  { generations, protectedSec, signal }: DemoOptions,
  tell: Teller,
): Promise<DemoReport> {
  const primary = await stage.startPrimary();
  keeper.begin(primary);
  tell.step(`primary-0 (pid ${primary.pid}) starts on ${primary.host}`);
  await stage.boot(primary, signal);
  keeper.booted();
  tell.step('client connected: one session, one ledger; both stay open from here on');
  if (generations === 'hands-on') await handOver(keeper, signal, tell);
  else await tellStory(keeper, { generations, protectedSec, signal }, tell);
  await keeper.collect();
  const client = await stage.workload.stop();
  const { total, pausesMs } = keeper.checkpoints;
  return { checkpoints: total, pausesMs, failovers: keeper.failovers, ...client };
}

/** A page that cannot be had is no reason to have no demo, unless a person asked for its port or is to use it. */
async function openPage(
  stage: Stage,
  keeper: PairKeeper,
  events: EventLog,
  { port, software, onServed }: PageOptions,
  { tell, isHandsOn }: { readonly tell: Teller; readonly isHandsOn: boolean },
): Promise<DashboardServer | undefined> {
  const source = new DemoPageSource(keeper, events, { software, spec: stage.spec, isHandsOn });
  try {
    const page = await servePage(source, port);
    onServed(page.isTokenRequired ? page.pageUrl : page.url);
    return page;
  } catch (error) {
    if (port !== undefined || isHandsOn) throw error;
    tell.trouble(`no page: ${messageOf(error)}`);
    return undefined;
  }
}
