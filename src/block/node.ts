/**
 * A node of the block graph: the wrapper around one driver. It checks ranges once, counts what is in flight, lets jobs
 * watch writes, and knows who uses it. It does not know the graph's names (graph.ts) nor any driver.
 */
import { ColoError, IoError } from '../base/errors.ts';
import { InFlight } from '../base/async.ts';
import type { BlockDriver, BlockExtent, WriteFlags } from './driver.ts';

/** Called before a write (of any kind) reaches the driver; the write waits for it and fails if it throws. */
export type BeforeWrite = (offset: number, length: number) => Promise<void>;
/** Called when a write ended, well or not. */
export type AfterWrite = (offset: number, length: number) => void;

export class BlockNode {
  readonly nodeName: string;
  readonly driver: BlockDriver;
  readonly inFlight = new InFlight();
  /** Who refers to this node: parents by role, block backends, exports, jobs. A node in use cannot be deleted. */
  readonly users = new Set<string>();
  /** Operations that somebody has forbidden, with the reason (QEMU: op blockers). */
  readonly blockers = new Map<string, string>();
  #beforeWrite: BeforeWrite[] = [];
  #afterWrite: AfterWrite[] = [];
  #closed = false;

  constructor(nodeName: string, driver: BlockDriver) {
    this.nodeName = nodeName;
    this.driver = driver;
  }

  get lengthBytes(): number {
    return this.driver.lengthBytes;
  }

  get readOnly(): boolean {
    return this.driver.readOnly;
  }

  get backing(): BlockNode | null {
    return this.driver.children().get('backing') ?? null;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    this.#check(offset, target.byteLength);
    this.inFlight.enter();
    try {
      await this.driver.read(offset, target);
    } finally {
      this.inFlight.leave();
    }
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    await this.#mutate(offset, source.byteLength, () => this.driver.write(offset, source, flags));
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    await this.#mutate(offset, length, async () => {
      if (this.driver.writeZeroes) return this.driver.writeZeroes(offset, length, flags);
      const zeros = new Uint8Array(Math.min(length, 1 << 20));
      for (let done = 0; done < length; done += zeros.byteLength) {
        await this.driver.write(
          offset + done,
          zeros.subarray(0, Math.min(zeros.byteLength, length - done)),
          flags,
        );
      }
    });
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#mutate(offset, length, async () => this.driver.discard?.(offset, length));
  }

  async flush(): Promise<void> {
    this.#open();
    this.inFlight.enter();
    try {
      await this.driver.flush();
    } finally {
      this.inFlight.leave();
    }
  }

  async blockStatus(offset: number, length: number, wantMap?: boolean): Promise<BlockExtent[]> {
    this.#check(offset, length);
    if (!this.driver.blockStatus) return [{ offset, length, zero: false, data: true, allocated: true }];
    this.inFlight.enter();
    try {
      return await this.driver.blockStatus(offset, length, wantMap);
    } finally {
      this.inFlight.leave();
    }
  }

  async makeEmpty(): Promise<void> {
    this.#open();
    if (!this.driver.makeEmpty) {
      throw new ColoError(`Node '${this.nodeName}' (${this.driver.driverName}) doesn't support make_empty`);
    }
    await this.driver.makeEmpty();
  }

  /** Adds a hook that runs before each write; returns its removal. Hooks run in order of registration. */
  onBeforeWrite(hook: BeforeWrite): () => void {
    this.#beforeWrite = [...this.#beforeWrite, hook];
    return () => {
      this.#beforeWrite = this.#beforeWrite.filter((other) => other !== hook);
    };
  }

  /** Adds an observer of ended writes; returns its removal. */
  onAfterWrite(observer: AfterWrite): () => void {
    this.#afterWrite = [...this.#afterWrite, observer];
    return () => {
      this.#afterWrite = this.#afterWrite.filter((other) => other !== observer);
    };
  }

  /** Resolves when no request is in flight on this node. The caller has to keep new ones away if that matters. */
  drain(): Promise<void> {
    return this.inFlight.idle();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.inFlight.idle();
    await this.driver.close();
  }

  async #mutate(offset: number, length: number, act: () => Promise<void>): Promise<void> {
    this.#check(offset, length);
    if (this.driver.readOnly) throw new IoError('EPERM', `Node '${this.nodeName}' is read-only`);
    this.inFlight.enter();
    try {
      for (const hook of this.#beforeWrite) await hook(offset, length);
      await act();
    } finally {
      for (const observer of this.#afterWrite) observer(offset, length);
      this.inFlight.leave();
    }
  }

  #check(offset: number, length: number): void {
    this.#open();
    if (
      !Number.isSafeInteger(offset) ||
      offset < 0 ||
      length < 0 ||
      offset + length > this.driver.lengthBytes
    ) {
      throw new IoError(
        'EINVAL',
        `Request at ${offset}, ${length} bytes, lies outside node '${this.nodeName}' of ${this.driver.lengthBytes} bytes`,
      );
    }
  }

  #open(): void {
    if (this.#closed) throw new IoError('ESHUTDOWN', `Node '${this.nodeName}' is closed`);
  }
}
