/**
 * Makes a pair of a copy that runs alone and a new one: sockets, process, resync, the guest's state, the first checkpoint.
 * When it comes to nothing everything is taken apart again and the guest goes on alone, if its process lives.
 */
import { Deferred } from '../base/async.ts';
import { ColoError, messageOf } from '../base/errors.ts';
import type { PairLinks } from '../ha/pair-links.ts';
import type { ResyncProgress } from '../ha/procedure.ts';
import type { DemoCopy } from './copy.ts';
import type { Cables } from './link-relay.ts';
import type { ProtectOptions } from './pair.ts';
import { PairWatch } from './pair-watch.ts';
import type { PairLoss } from './pair-watch.ts';

/** What a pair is made of; tests imitate it. */
export interface PairingParts {
  readonly linkPatienceMs: number;
  readonly cables: (primaryHost: string) => Promise<Cables>;
  readonly startSecondary: (generation: number, links: PairLinks) => Promise<DemoCopy>;
  readonly steps: PairSteps;
}

export interface PairSteps {
  /** Before there is a secondary, which connects to them. */
  openSockets(primary: DemoCopy, links: PairLinks): Promise<void>;
  protect(primary: DemoCopy, secondary: DemoCopy, links: PairLinks, options: ProtectOptions): Promise<void>;
  primaryAlone(primary: DemoCopy): Promise<void>;
  secondaryAlone(secondary: DemoCopy): Promise<void>;
}

export interface PairingHooks {
  /** The secondary's process is there, and both are watched. */
  begun(pair: Pair): void;
  progress(progress: ResyncProgress): void;
  synced(): void;
  silent(reason: string): void;
  back(reason: string): void;
  lost(loss: PairLoss): void;
}

export interface Pair {
  readonly secondary: DemoCopy;
  readonly cables: Cables;
  readonly watch: PairWatch;
  /** Resolves when the pair has ended. */
  readonly loss: Deferred<PairLoss>;
}

/** There is no copy that could go on. */
export class GuestLostError extends ColoError {}

/** What was under way with a pair that fell apart ends by itself; nobody waits longer. */
const UNDO_MS = 20_000;

/** Throws ColoError when the guest goes on alone, GuestLostError when it does not. */
export async function makePair(
  parts: PairingParts,
  primary: DemoCopy,
  generation: number,
  hooks: PairingHooks,
): Promise<Pair> {
  const { steps } = parts;
  const abandoned = new AbortController();
  const cables = await parts.cables(primary.host);
  let secondary: DemoCopy | null = null;
  let pair: Pair | null = null;
  let protecting: Promise<void> = Promise.resolve();
  try {
    await steps.openSockets(primary, cables.forPrimary);
    secondary = await parts.startSecondary(generation, cables.forSecondary);
    pair = watchOver(primary, secondary, cables, parts.linkPatienceMs, hooks);
    hooks.begun(pair);
    protecting = steps.protect(primary, secondary, cables.forPrimary, {
      seenBySecondary: cables.forSecondary,
      signal: abandoned.signal,
      onProgress: (progress) => hooks.progress(progress),
      onSynced: () => hooks.synced(),
    });
    const lost = await Promise.race([protecting.then(() => null), pair.loss.promise]);
    if (lost) throw new ColoError(lost.reason);
    return pair;
  } catch (cause) {
    const error = new ColoError(`no protection: ${messageOf(cause)}`, { cause });
    abandoned.abort(error);
    pair?.watch.stop();
    await secondary?.kill();
    cables.close();
    try {
      if (!primary.isAlive) throw new ColoError(`the process of ${primary.name} has ended`);
      await quietly(protecting);
      await steps.primaryAlone(primary);
    } catch (why) {
      throw new GuestLostError(`the guest is lost: ${messageOf(why)}`, { cause: why });
    }
    throw error;
  }
}

function watchOver(
  primary: DemoCopy,
  secondary: DemoCopy,
  cables: Cables,
  linkPatienceMs: number,
  hooks: PairingHooks,
): Pair {
  const loss = new Deferred<PairLoss>();
  const watch = new PairWatch({ primary, secondary }, linkPatienceMs, {
    silent: (reason) => hooks.silent(reason),
    back: (reason) => hooks.back(reason),
    lost: (what) => {
      hooks.lost(what);
      loss.resolve(what);
    },
  });
  return { secondary, cables, watch, loss };
}

async function quietly(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, UNDO_MS)));
  await Promise.race([work.catch(() => undefined), late]);
  clearTimeout(timer);
}
