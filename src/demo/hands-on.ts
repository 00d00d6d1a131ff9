/**
 * `colo demo --hands-on`: nothing is killed but by the person at the page (or with kill(1)); after every death the pair is
 * made whole again, until `signal`.
 */
import { messageOf } from '../base/errors.ts';
import { BackOff } from '../ha/life/back-off.ts';
import type { PairKeeper } from './keeper.ts';
import { GuestLostError } from './pairing.ts';
import type { Teller } from './report.ts';
import { pause } from './pause.ts';

/** Between two tries at protection that came to nothing. */
const AGAIN = { firstMs: 500, longestMs: 8_000 };

/** Throws GuestLostError. */
export async function handOver(
  keeper: PairKeeper,
  signal: AbortSignal,
  tell: Pick<Teller, 'trouble'>,
): Promise<void> {
  const waits = new BackOff(AGAIN);
  while (!signal.aborted) {
    try {
      await keeper.makeWhole();
      waits.reset();
    } catch (error) {
      if (error instanceof GuestLostError) throw error;
      tell.trouble(messageOf(error));
      await pause(waits.next(), signal);
      keeper.again();
      continue;
    }
    const loss = await keeper.nextLoss(signal);
    if (loss) await keeper.goOn(loss);
  }
}
