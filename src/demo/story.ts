/**
 * What `colo demo` tells by itself: generation after generation the primary is killed with SIGKILL, the secondary goes on,
 * a new secondary is made and the pair is whole again; at the end the secondary dies instead.
 */
import { abortAfter } from '../base/async.ts';
import { ColoError } from '../base/errors.ts';
import type { PairKeeper } from './keeper.ts';
import { pause } from './pause.ts';
import type { Teller } from './report.ts';

/** The survivor serves alone for a moment. */
const LAST_MS = 1_000;

export interface StoryOptions {
  /** How often the primary is killed before the secondary is. */
  readonly generations: number;
  /** How long the pair stays protected before the next death, in seconds. */
  readonly protectedSec: number;
  readonly signal?: AbortSignal | undefined;
}

/** Throws ColoError when it cannot be carried on, or was interrupted. */
export async function tellStory(
  keeper: PairKeeper,
  { generations, protectedSec, signal }: StoryOptions,
  tell: Pick<Teller, 'trouble'>,
): Promise<void> {
  for (let deaths = 0; deaths <= generations;) {
    requireGoingOn(signal);
    await keeper.makeWhole();
    const early = await lossWithin(keeper, protectedSec * 1000, signal);
    if (early) {
      // Not in the story: it goes on all the same, and the death does not count.
      tell.trouble(`the pair ended by itself: ${early.reason}`);
      await keeper.goOn(early);
      continue;
    }
    await keeper.strike(deaths < generations ? 'kill-primary' : 'kill-secondary');
    const loss = await keeper.nextLoss(signal);
    if (!loss) throw new ColoError('interrupted');
    await keeper.goOn(loss);
    deaths++;
  }
  await pause(LAST_MS, signal);
  requireGoingOn(signal);
}

/** Null: it was whole for so long. */
async function lossWithin(
  keeper: PairKeeper,
  ms: number,
  signal: AbortSignal | undefined,
): ReturnType<PairKeeper['nextLoss']> {
  const over = abortAfter(ms, signal ? [signal] : []);
  try {
    const loss = await keeper.nextLoss(over.signal);
    requireGoingOn(signal);
    return loss;
  } finally {
    over.end();
  }
}

function requireGoingOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new ColoError('interrupted');
}
