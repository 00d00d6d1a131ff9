/**
 * The checkpoints of the whole demo, over all its primaries: how many, and how long each pause was; and how those of the
 * present one go, for people. A primary that dies between two looks takes what it has not told with it.
 */
import type { CheckpointView } from '../ha/views.ts';
import { CheckpointCount } from '../node/checkpoint-count.ts';
import type { QmpConnection } from '../qmp/lasting-client.ts';

/** The newest pauses are remembered. */
export const MAX_KEPT_PAUSES = 100_000;

type Asked = Pick<QmpConnection, 'execute'>;

export class CheckpointTally {
  #total = 0;
  #pausesMs: number[] = [];
  #primary: Asked | null = null;
  #seen = 0;
  #view = new CheckpointCount(() => performance.now());
  #looking: Promise<void> | null = null;

  get total(): number {
    return this.#total;
  }

  get pausesMs(): readonly number[] {
    return this.#pausesMs;
  }

  /** Of the present primary, as of the last look. */
  get view(): CheckpointView | undefined {
    return this.#view.view;
  }

  /** Never rejects. One question at a time. */
  look(primary: Asked): Promise<void> {
    this.#looking ??= this.#look(primary).finally(() => (this.#looking = null));
    return this.#looking;
  }

  async #look(primary: Asked): Promise<void> {
    if (primary !== this.#primary) {
      this.#primary = primary;
      this.#seen = 0;
      this.#view = new CheckpointCount(() => performance.now());
    }
    await this.#view.look({
      execute: async (command, args, options) => {
        const said = await primary.execute(command, args, options);
        this.#take(said as { readonly count: number; readonly records: readonly { pauseMs: number }[] });
        return said;
      },
    });
  }

  #take({
    count,
    records,
  }: {
    readonly count: number;
    readonly records: readonly { pauseMs: number }[];
  }): void {
    const more = Math.max(0, count - this.#seen);
    this.#seen = count;
    this.#total += more;
    if (more === 0) return;
    this.#pausesMs.push(...records.slice(-more).map(({ pauseMs }) => pauseMs));
    if (this.#pausesMs.length > MAX_KEPT_PAUSES) this.#pausesMs = this.#pausesMs.slice(-MAX_KEPT_PAUSES);
  }
}
