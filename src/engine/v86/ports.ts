/**
 * The main thread's side of NICs and of the serial port: bounded one-way streams to and from the worker.
 */
import type { Transferable } from 'node:worker_threads';
import type { EngineNic, EngineSerial } from '../engine.ts';
import { MAX_FRAME_BYTES, MAX_WAITING_FRAMES, SLOT_WORKER_TOOK_FRAMES } from './protocol.ts';
import type { ToWorker } from './protocol.ts';

type Post = (message: ToWorker, transfer: Transferable[]) => void;

/** Frames on their way to the worker, of all NICs together: posted, less what the worker says it took. */
const postedOf = new WeakMap<Int32Array, number>();

export class V86Nic implements EngineNic {
  readonly id: string;
  #mac: Uint8Array;
  readonly #index: number;
  readonly #counters: Int32Array;
  readonly #post: Post;
  onFrame: ((frame: Uint8Array) => void) | null = null;
  /** Frames that the worker was too far behind for, or that no Ethernet carries. */
  droppedFrames = 0;

  constructor(id: string, mac: Uint8Array, index: number, counters: Int32Array, post: Post) {
    this.id = id;
    this.#mac = Uint8Array.from(mac);
    this.#index = index;
    this.#counters = counters;
    this.#post = post;
  }

  /** After a load, the address of the machine that the state came from. */
  get mac(): Uint8Array {
    return this.#mac;
  }

  setMac(mac: Uint8Array): void {
    this.#mac = mac;
  }

  send(frame: Uint8Array): void {
    const posted = postedOf.get(this.#counters) ?? 0;
    const waiting = (posted - Atomics.load(this.#counters, SLOT_WORKER_TOOK_FRAMES)) | 0;
    if (waiting >= MAX_WAITING_FRAMES || frame.length === 0 || frame.length > MAX_FRAME_BYTES) {
      this.droppedFrames++;
      return;
    }
    postedOf.set(this.#counters, (posted + 1) | 0);
    const data = Uint8Array.from(frame);
    this.#post({ kind: 'frame', nic: this.#index, data }, [data.buffer]);
  }
}

export class V86Serial implements EngineSerial {
  readonly #post: Post;
  onData: ((bytes: Uint8Array) => void) | null = null;
  onDrain: (() => void) | null = null;

  constructor(post: Post) {
    this.#post = post;
  }

  /** What the machine has no room for is lost, as on a real line. */
  write(bytes: Uint8Array): boolean {
    const data = Uint8Array.from(bytes);
    this.#post({ kind: 'serial', data }, [data.buffer]);
    return true;
  }
}
