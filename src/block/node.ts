/**
 * A node of the block graph: the wrapper around one driver. It checks ranges once, counts what is in flight, lets jobs
 * watch writes, and knows who uses it. It does not know the graph's names (graph.ts) nor any driver.
 */
import { ENDED, InFlight } from '../base/async.ts';
import { ColoError, IoError, messageOf } from '../base/errors.ts';
import { DirtyBitmaps } from './dirty-bitmap.ts';
import type { BlockDriver, BlockExtent, WriteFlags } from './driver.ts';
import type { DetectZeroes } from './generic-options.ts';

/** Called before a write (of any kind) reaches the driver; the write waits for it and fails if it throws. */
export type BeforeWrite = (offset: number, length: number) => Promise<void>;
/** Called when a write ended, well or not. */
export type AfterWrite = (offset: number, length: number) => void;
/**
 * Called when the driver has taken a write (`source`) or a write of zeroes (null) and before it ends, which waits for
 * it. Not called for discards, which promise no content. It must not throw: the write has been done.
 */
export type RepeatWrite = (offset: number, length: number, source: Uint8Array | null) => Promise<void>;

/** Options of every node that change what becomes of requests (QEMU: discard, cache.no-flush, detect-zeroes). */
export interface NodeSettings {
  /** False: discards end here, and zeros are written without freeing space. */
  readonly unmap: boolean;
  /** Flushes are not passed on to the host. */
  readonly noFlush: boolean;
  readonly detectZeroes: DetectZeroes;
}

const PLAIN: NodeSettings = { unmap: true, noFlush: false, detectZeroes: 'off' };
const KEEP: WriteFlags = { unmap: false };
const KEEP_FUA: WriteFlags = { unmap: false, fua: true };
const ZEROS = new Uint8Array(1 << 16);

export class BlockNode {
  readonly nodeName: string;
  readonly driver: BlockDriver;
  readonly settings: NodeSettings;
  readonly inFlight = new InFlight();
  /** Who refers to this node: parents by role, block backends, exports, jobs. A node in use cannot be deleted. */
  readonly users = new Set<string>();
  /** Operations that somebody has forbidden, with the reason (QEMU: op blockers). */
  readonly blockers = new Map<string, string>();
  readonly dirtyBitmaps = new DirtyBitmaps();
  #beforeWrite: BeforeWrite[] = [];
  #afterWrite: AfterWrite[] = [];
  #repeatWrite: RepeatWrite[] = [];
  #closed = false;
  #writtenTo = 0;

  constructor(nodeName: string, driver: BlockDriver, settings: NodeSettings = PLAIN) {
    this.nodeName = nodeName;
    this.driver = driver;
    this.settings = settings;
  }

  /** The end of the furthest write since the node was opened. */
  get highestWrittenOffset(): number {
    return this.#writtenTo;
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

  read(offset: number, target: Uint8Array): Promise<void> {
    const refusal = this.#refusal(offset, target.byteLength);
    if (refusal) return Promise.reject(refusal);
    this.inFlight.enter();
    let read: Promise<void>;
    try {
      read = this.driver.read(offset, target);
    } catch (error) {
      read = Promise.reject(error instanceof Error ? error : new IoError('EIO', messageOf(error)));
    }
    if (read !== ENDED) return this.#left(read);
    this.inFlight.leave();
    return ENDED;
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    const { detectZeroes } = this.settings;
    if (detectZeroes !== 'off' && this.driver.writeZeroes && isZero(source)) {
      const fua = flags?.fua === true;
      await this.writeZeroes(offset, source.byteLength, { fua, unmap: detectZeroes === 'unmap' });
      return;
    }
    if (this.settings.noFlush) flags = undefined;
    await this.#mutate(offset, source.byteLength, async () => {
      await this.driver.write(offset, source, flags);
      for (const repeat of this.#repeatWrite) await repeat(offset, source.byteLength, source);
    });
    this.#noteWrite(offset + source.byteLength);
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    if (!this.settings.unmap) flags = flags?.fua === true && !this.settings.noFlush ? KEEP_FUA : KEEP;
    else if (this.settings.noFlush && flags?.fua === true) flags = { ...flags, fua: false };
    await this.#mutate(offset, length, async () => {
      if (this.driver.writeZeroes) await this.driver.writeZeroes(offset, length, flags);
      else await this.#writeZeroBytes(offset, length, flags);
      for (const repeat of this.#repeatWrite) await repeat(offset, length, null);
    });
    this.#noteWrite(offset + length);
  }

  async discard(offset: number, length: number): Promise<void> {
    if (!this.settings.unmap) {
      this.#check(offset, length);
      this.#requireWritable();
      return;
    }
    await this.#mutate(offset, length, async () => this.driver.discard?.(offset, length));
  }

  async flush(): Promise<void> {
    this.#open();
    // Below a format there are other nodes, which inherit the option or not.
    if (this.settings.noFlush && this.driver.children().size === 0) return;
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

  async makeEmpty(isStable = false): Promise<void> {
    this.#open();
    if (!this.driver.makeEmpty) {
      throw new ColoError(`Node '${this.nodeName}' (${this.driver.driverName}) doesn't support make_empty`);
    }
    this.dirtyBitmaps.mark(0, this.lengthBytes);
    await this.driver.makeEmpty(isStable);
    this.dirtyBitmaps.mark(0, this.lengthBytes);
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

  /** Adds a hook that does each write once more elsewhere before it ends; returns its removal. */
  onRepeatWrite(hook: RepeatWrite): () => void {
    this.#repeatWrite = [...this.#repeatWrite, hook];
    return () => {
      this.#repeatWrite = this.#repeatWrite.filter((other) => other !== hook);
    };
  }

  /** Resolves when no request is in flight on this node. The caller has to keep new ones away if that matters. */
  drain(): Promise<void> {
    return this.inFlight.idle();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.driver.closing?.();
    await this.inFlight.idle();
    await this.driver.close();
  }

  async #writeZeroBytes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    const zeros = new Uint8Array(Math.min(length, 1 << 20));
    for (let done = 0; done < length; done += zeros.byteLength) {
      const piece = zeros.subarray(0, Math.min(zeros.byteLength, length - done));
      await this.driver.write(offset + done, piece, flags);
    }
  }

  #noteWrite(end: number): void {
    if (end > this.#writtenTo) this.#writtenTo = end;
  }

  async #mutate(offset: number, length: number, act: () => Promise<void>): Promise<void> {
    this.#check(offset, length);
    this.#requireWritable();
    this.inFlight.enter();
    this.dirtyBitmaps.mark(offset, length);
    try {
      for (const hook of this.#beforeWrite) await hook(offset, length);
      await act();
    } finally {
      this.dirtyBitmaps.mark(offset, length);
      for (const observer of this.#afterWrite) observer(offset, length);
      this.inFlight.leave();
    }
  }

  async #left(request: Promise<void>): Promise<void> {
    try {
      await request;
    } finally {
      this.inFlight.leave();
    }
  }

  #check(offset: number, length: number): void {
    const refusal = this.#refusal(offset, length);
    if (refusal) throw refusal;
  }

  #refusal(offset: number, length: number): IoError | null {
    if (this.#closed) return new IoError('ESHUTDOWN', `Node '${this.nodeName}' is closed`);
    if (
      Number.isSafeInteger(offset) &&
      offset >= 0 &&
      length >= 0 &&
      offset + length <= this.driver.lengthBytes
    ) {
      return null;
    }
    return new IoError(
      'EINVAL',
      `Request at ${offset}, ${length} bytes, lies outside node '${this.nodeName}' of ${this.driver.lengthBytes} bytes`,
    );
  }

  #requireWritable(): void {
    if (this.driver.readOnly) throw new IoError('EPERM', `Node '${this.nodeName}' is read-only`);
  }

  #open(): void {
    if (this.#closed) throw new IoError('ESHUTDOWN', `Node '${this.nodeName}' is closed`);
  }
}

function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.byteLength; at += ZEROS.byteLength) {
    const length = Math.min(ZEROS.byteLength, bytes.byteLength - at);
    if (Buffer.compare(bytes.subarray(at, at + length), ZEROS.subarray(0, length)) !== 0) return false;
  }
  return bytes.byteLength > 0;
}
