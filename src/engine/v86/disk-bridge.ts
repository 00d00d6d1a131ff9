/**
 * A disk as v86 sees it, in the worker: every request becomes a message to the main thread, where the block layer is.
 * v86 knows no failures: what a failed request means to the guest is ide-patch.ts's work.
 */
import type { DiskOp } from './protocol.ts';

/** `data` is the bytes of a read that succeeded. */
export type DiskDone = (ok: boolean, data: Uint8Array | null) => void;

/** Sends requests and counts what is in flight. */
export class DiskRequests {
  readonly #post: (
    id: number,
    disk: number,
    op: DiskOp,
    offset: number,
    length: number,
    data: Uint8Array | null,
  ) => void;
  readonly #pending = new Map<number, DiskDone>();
  #nextId = 1;
  #idleWaiters: (() => void)[] = [];

  constructor(
    post: (
      id: number,
      disk: number,
      op: DiskOp,
      offset: number,
      length: number,
      data: Uint8Array | null,
    ) => void,
  ) {
    this.#post = post;
  }

  get inFlight(): number {
    return this.#pending.size;
  }

  submit(
    disk: number,
    op: DiskOp,
    offset: number,
    length: number,
    data: Uint8Array | null,
    done: DiskDone,
  ): void {
    const id = this.#nextId++;
    this.#pending.set(id, done);
    this.#post(id, disk, op, offset, length, data);
  }

  complete(id: number, ok: boolean, data: Uint8Array | null): void {
    const done = this.#pending.get(id);
    if (!done) return;
    this.#pending.delete(id);
    done(ok, data);
    // After `done`: the drive's registers and its interrupt belong to the state that a pause leaves behind.
    if (this.#pending.size > 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }

  idle(): Promise<void> {
    if (this.#pending.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }
}

/** `done` is called when the bytes are written; never, when that failed. */
export type WriteHook = (start: number, data: Uint8Array, done: () => void) => void;

/** v86's disk object (the shape of its SyncBuffer). Reads and writes of a guest go through ide-patch.ts. */
export class BridgeDisk {
  readonly byteLength: number;
  readonly #requests: DiskRequests;
  readonly #index: number;
  #firstSector: Uint8Array | null = null;
  /** Where v86's DMA writes go. */
  onWrite: WriteHook | null = null;
  /** v86 calls this when load() has ended. */
  onload: ((event: object) => void) | undefined = undefined;

  constructor(requests: DiskRequests, index: number, lengthBytes: number) {
    this.#requests = requests;
    this.#index = index;
    this.byteLength = lengthBytes;
  }

  /** `data` is taken over. `done` is called in any case. */
  submit(op: DiskOp, offset: number, length: number, data: Uint8Array | null, done: DiskDone): void {
    this.#requests.submit(this.#index, op, offset, length, data, done);
  }

  /**
   * Reads the first sector ahead: v86 wants it at once, for the geometry. A disk that cannot be read yet (a secondary's,
   * before replication has started) has the default geometry; a loaded state brings its own.
   */
  prepare(): Promise<void> {
    return new Promise((resolve) => {
      this.submit('probe', 0, 512, null, (ok, data) => {
        this.#firstSector = ok && data ? data : new Uint8Array(512);
        resolve();
      });
    });
  }

  load(): void {
    this.onload?.({});
  }

  get(): void {
    throw new Error('v86 read a disk past the patched drive');
  }

  set(start: number, data: Uint8Array, done: () => void): void {
    if (!this.onWrite) throw new Error('v86 wrote to a disk that no drive is tied to');
    this.onWrite(start, data, done);
  }

  get_and_cache(start: number, length: number, done: (data: Uint8Array) => void): void {
    done(this.#firstSector!.subarray(start, start + length));
  }

  get_from_cache(start: number, length: number): Uint8Array | undefined {
    return start + length <= 512 ? this.#firstSector?.subarray(start, start + length) : undefined;
  }

  get_buffer(done: (data: undefined) => void): void {
    done(undefined);
  }

  // The disk's contents are not part of the machine's state: the block layer replicates them.
  get_state(): unknown[] {
    return [];
  }

  set_state(): void {
    // Nothing was saved.
  }
}
