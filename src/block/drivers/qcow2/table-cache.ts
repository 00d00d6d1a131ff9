/**
 * L2 tables in memory, a bounded number of them. A table that nobody has pinned is forgotten when others need its room;
 * it has to be the same in the file.
 *
 * Whoever will change a table pins it from the moment it is in the cache, not when he gets to see it. The file may
 * answer at once (out of the page cache), and then everybody who waits for a table runs in one turn of the event loop:
 * without the pin a few of them push each other's tables out and load them again for ever, no write ends, and the
 * process stands still. Pinned, there is also never a second copy of the table beside the one that is changed.
 */
import type { Deferred } from '../../../base/async.ts';
import { viewOf } from './format.ts';

/** An L2 table in memory. Valid until the next await, unless pinned. */
export interface L2Table {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  pins: number;
  /** A write to the file is under way. */
  writing: boolean;
  /** What waits for it to end. */
  queued: TableWrite | null;
}

/** Bytes [from, to) of a table that have to get into the file. */
export interface TableWrite {
  from: number;
  to: number;
  readonly done: Deferred<void>;
}

/** A table on its way in. */
interface Loading {
  /** How many wait for it who will change it. */
  pins: number;
  readonly table: Promise<L2Table>;
}

export class TableCache {
  readonly #maxTables: number;
  readonly #read: (index: number) => Promise<L2Table>;
  readonly #tables = new Map<number, L2Table>();
  readonly #loading = new Map<number, Loading>();

  /** `read` gets a table from the file. Pinned tables may be more than `maxTables`. */
  constructor(maxTables: number, read: (index: number) => Promise<L2Table>) {
    this.#maxTables = maxTables;
    this.#read = read;
  }

  get(index: number): L2Table | undefined {
    return this.#tables.get(index);
  }

  /** `get`, which also makes it the last one to be forgotten. */
  use(index: number): L2Table | undefined {
    const table = this.#tables.get(index);
    if (table && this.#tables.size >= this.#maxTables) {
      this.#tables.delete(index);
      this.#tables.set(index, table);
    }
    return table;
  }

  /** Gets a table that is not here. Throws what `read` throws. */
  load(index: number): Promise<L2Table> {
    return this.#incoming(index).table;
  }

  /** `load`, and the table is pinned. */
  loadPinned(index: number): Promise<L2Table> {
    const loading = this.#incoming(index);
    loading.pins++;
    return loading.table;
  }

  /** Adds a table, in the place of the one there was. */
  put(index: number, table: L2Table): void {
    this.#tables.delete(index);
    this.#tables.set(index, table);
    if (this.#tables.size <= this.#maxTables) return;
    for (const [other, { pins }] of this.#tables) {
      if (pins > 0 || other === index) continue;
      this.#tables.delete(other);
      if (this.#tables.size <= this.#maxTables) return;
    }
  }

  clear(): void {
    this.#tables.clear();
  }

  #incoming(index: number): Loading {
    const known = this.#loading.get(index);
    if (known) return known;
    const loading: Loading = {
      pins: 0,
      // Out of the one map and into the other in one step, so that nobody finds the table in neither.
      table: this.#read(index).then(
        (table) => {
          this.#loading.delete(index);
          table.pins += loading.pins;
          this.put(index, table);
          return table;
        },
        (error: unknown) => {
          this.#loading.delete(index);
          throw error;
        },
      ),
    };
    this.#loading.set(index, loading);
    return loading;
  }
}

export function newTable(offset: number, bytes: Uint8Array): L2Table {
  return { offset, bytes, view: viewOf(bytes), pins: 0, writing: false, queued: null };
}

export function pin(table: L2Table): L2Table {
  table.pins++;
  return table;
}

export function unpin(table: L2Table): void {
  table.pins--;
}
