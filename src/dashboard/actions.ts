/**
 * The page's buttons. Each is answered once, if its page is still there. An action goes on when its page has left: it has
 * begun at two hosts, a half of it helps nobody, and whoever comes back sees in the lists and events what became of it.
 */
import { abortAfter, withDeadline } from '../base/async.ts';
import { loggerFor } from '../base/logger.ts';
import { BusyError } from '../ha/errors.ts';
import type { ClientMessage } from './protocol.ts';
import { toldOf } from './questions.ts';
import type { DashboardSource } from './source.ts';

/** Under way at a time, of all pages. */
export const MAX_ACTIONS = 16;
/** Moving a VM copies its disks. */
export const ACTION_MS = 3_600_000;
/** For an answer to come after an action has been told to end. */
const ENDING_MS = 5_000;

export type Act = Extract<ClientMessage, { type: 'act' }>;

export interface Outcome {
  readonly error: string | null;
  readonly text: string;
}

export class Actions {
  readonly #source: DashboardSource;
  readonly #closing: AbortSignal;
  readonly #log = loggerFor('dashboard');
  #underWay = 0;

  constructor(source: DashboardSource, closing: AbortSignal) {
    this.#source = source;
    this.#closing = closing;
  }

  /** Never throws. */
  async run({ vm, action, host }: Act): Promise<Outcome> {
    if (this.#underWay >= MAX_ACTIONS) {
      return outcome(new BusyError(`${MAX_ACTIONS} actions are under way: wait for one of them`));
    }
    this.#underWay++;
    const deadline = abortAfter(ACTION_MS, [this.#closing]);
    this.#log.info({ vm, action, host }, 'asked for on the page');
    try {
      const options = { signal: deadline.signal, ...(host !== undefined && { host }) };
      const done = (async () => this.#source.act(vm, action, options))();
      return { error: null, text: await withDeadline(done, ACTION_MS + ENDING_MS, action, this.#closing) };
    } catch (error) {
      this.#log.warn({ vm, action, err: error }, 'an action of the page failed');
      return outcome(error);
    } finally {
      deadline.end();
      this.#underWay--;
    }
  }
}

function outcome(error: unknown): Outcome {
  return { error: toldOf(error), text: '' };
}
