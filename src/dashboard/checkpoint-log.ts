/**
 * The checkpoints of a primary for the charts: what `query-colo-checkpoints` has of them beyond those that are known. Each
 * look asks for the newest known one again: when that is another now, so is the primary, and all begins anew.
 */
import { CommandNotFoundError, ColoError } from '../base/errors.ts';
import { listOf, membersOf, numberIn, type Members } from './replies.ts';
import type { CheckpointSample } from './protocol.ts';
import type { AskPrimary } from './source.ts';

/** As many as a primary keeps itself (vm/migration.ts). */
export const KEPT_SAMPLES = 1024;

export class CheckpointLog {
  #samples: CheckpointSample[] = [];
  /** An older peer: it tells all each time, and not when they were. */
  #isOld = false;

  /** All that this primary has taken; null: not known. */
  count: number | null = null;

  get samples(): readonly CheckpointSample[] {
    return this.#samples;
  }

  /** What is new; null: all is, `samples` has been replaced. Throws what asking throws. */
  async look(ask: AskPrimary): Promise<readonly CheckpointSample[] | null> {
    const last = this.#samples.at(-1);
    const reply = await this.#ask(ask, last === undefined ? 0 : last.sequence - 1);
    this.count = numberIn(membersOf(reply), 'count');
    if (reply === null) return [];
    const found = samplesOf(reply);
    if (last === undefined) {
      this.#samples = found.slice(-KEPT_SAMPLES);
      return found;
    }
    const again = found.find(({ sequence }) => sequence === last.sequence);
    if (again && isSame(again, last)) {
      const news = found.filter(({ sequence }) => sequence > last.sequence);
      if (news.length > 0) this.#samples = [...this.#samples, ...news].slice(-KEPT_SAMPLES);
      return news;
    }
    // More were taken meanwhile than are kept, or it is another primary: one that has fewer is asked for all it has.
    const all = this.#isOld ? found : samplesOf((await this.#ask(ask, 0)) ?? {});
    this.#samples = all.slice(-KEPT_SAMPLES);
    return null;
  }

  /** Null: the peer knows no such command. */
  async #ask(ask: AskPrimary, after: number): Promise<unknown> {
    try {
      if (!this.#isOld) return await ask('query-colo-checkpoints', { after });
    } catch (error) {
      if (error instanceof CommandNotFoundError) return null;
      // QEMU's text for an argument that a command does not take.
      if (!(error instanceof ColoError) || !error.message.includes("'after' is unexpected")) throw error;
      this.#isOld = true;
    }
    return ask('query-colo-checkpoints');
  }
}

function isSame(one: CheckpointSample, other: CheckpointSample): boolean {
  return one.pauseMs === other.pauseMs && one.bytes === other.bytes && one.heldMs === other.heldMs;
}

/** Numbered by `count`, the last one's: their own numbers begin anew with each secondary. */
function samplesOf(reply: unknown): CheckpointSample[] {
  const members = membersOf(reply);
  const records = listOf(members['records']);
  const count = numberIn(members, 'count') ?? records.length;
  const first = count - records.length + 1;
  return records.map((record, at) => sampleOf(record, first + at));
}

function sampleOf(record: Members, sequence: number): CheckpointSample {
  const { cause } = record;
  return {
    sequence,
    // When an older peer took it is not known: of those that come while somebody looks it is about now.
    atMs: numberIn(record, 'atMs') ?? Date.now(),
    cause: typeof cause === 'string' ? cause.slice(0, 64) : '',
    pauseMs: numberIn(record, 'pauseMs') ?? 0,
    heldMs: numberIn(record, 'heldMs') ?? 0,
    pages: numberIn(record, 'pages') ?? 0,
    bytes: numberIn(record, 'bytes') ?? 0,
  };
}
