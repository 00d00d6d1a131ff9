/**
 * The `file` protocol: a regular file (or block device of known size) with positional I/O on Node's thread pool. The
 * host's page cache is used; flush and FUA are fdatasync. Holes are punched and reported where the C library is
 * reachable. Images are locked as QEMU locks them (image-lock.ts) unless `locking=off`.
 */
import { constants, read as readFile, write as writeFile } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { ENDED } from '../../base/async.ts';
import { ColoError, ERRNO_TEXT, IoError, ParameterError, errnoOf } from '../../base/errors.ts';
import { fileErrorMessage } from '../../base/file-errors.ts';
import type { BlockDriver, BlockExtent, StrongOptions, WriteFlags } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import type { OptionReader } from '../options.ts';
import { lockImage } from './image-lock.ts';
import { canSeekHoles, punchHole, readCached, seekTo } from './libc.ts';

const ZEROS = new Uint8Array(1 << 20);
const NO_CHILDREN: ReadonlyMap<string, BlockNode> = new Map();
/** A file with more extents in one answer than this is reported as data from there on. */
const MAX_EXTENTS = 4096;
/** Reads up to this are tried in the page cache first: a thread's hand-over costs more than the copy. */
const MAX_CACHED_READ = 32 * 1024;

export interface FileOpenOptions {
  readonly readOnly?: boolean;
  /** Fall back to read-only when the file cannot be written. */
  readonly autoReadOnly?: boolean;
  /** False: neither take nor check image locks (force-share, locking=off). */
  readonly locking?: boolean;
}

export class FileDriver implements BlockDriver {
  readonly driverName = 'file';
  readonly filename: string;
  readonly strongOptions: StrongOptions;
  /** `dev:ino`, the same for two names of one file. */
  readonly identity: string;
  readonly #locks: boolean;
  #handle: FileHandle;
  /** What was written is not all on stable storage, and never will be. */
  #lost: IoError | null = null;
  #readOnly: boolean;
  #unlock: () => void;
  #lengthBytes: number;

  private constructor(
    handle: FileHandle,
    init: {
      filename: string;
      identity: string;
      readOnly: boolean;
      lengthBytes: number;
      locks: boolean;
      unlock: () => void;
    },
  ) {
    this.#handle = handle;
    this.filename = init.filename;
    this.strongOptions = { filename: init.filename };
    this.identity = init.identity;
    this.#readOnly = init.readOnly;
    this.#locks = init.locks;
    this.#lengthBytes = init.lengthBytes;
    this.#unlock = init.unlock;
  }

  /** Throws ColoError with QEMU's text `Could not open 'X': …`. */
  static async open(filename: string, options: FileOpenOptions = {}): Promise<FileDriver> {
    const { handle, readOnly } = await openHandle(filename, options);
    try {
      const stat = await handle.stat({ bigint: true });
      if (stat.isDirectory()) throw new ColoError(`'${filename}' is a directory, not an image`);
      if (!stat.isFile() && !stat.isBlockDevice()) {
        throw new ColoError(`'${filename}' is neither a regular file nor a block device`);
      }
      const lengthBytes = stat.isFile() ? Number(stat.size) : await deviceLength(handle);
      if (!Number.isSafeInteger(lengthBytes)) throw new ColoError(`'${filename}' is too large`);
      const identity = `${stat.dev}:${stat.ino}`;
      const locks = options.locking !== false;
      const unlock = locks ? lockImage(handle.fd, identity, filename, !readOnly) : () => undefined;
      return new FileDriver(handle, { filename, identity, readOnly, lengthBytes, locks, unlock });
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  get exactName(): string {
    return this.filename;
  }

  async allocatedBytes(): Promise<number> {
    return (await this.#handle.stat()).blocks * 512;
  }

  get readOnly(): boolean {
    return this.#readOnly;
  }

  /** Opens a file that was opened for reading only anew, for writing too. Throws ColoError; then it stays as it was. */
  async makeWritable(): Promise<void> {
    if (!this.#readOnly) return;
    const { handle } = await openHandle(this.filename, {});
    const stat = await handle.stat({ bigint: true });
    if (`${stat.dev}:${stat.ino}` !== this.identity) {
      await handle.close();
      throw new ColoError(`'${this.filename}' is another file by now; it cannot be opened for writing`);
    }
    // The old handle has locks that the new one would run into. Requests that are on their way in it end first.
    await this.#replaceHandle(handle);
    try {
      if (this.#locks) this.#unlock = lockImage(handle.fd, this.identity, this.filename, true);
      this.#readOnly = false;
    } catch (error) {
      const { handle: old } = await openHandle(this.filename, { readOnly: true });
      await this.#replaceHandle(old);
      this.#unlock = lockImage(old.fd, this.identity, this.filename, false);
      throw error;
    }
  }

  children(): ReadonlyMap<string, BlockNode> {
    return NO_CHILDREN;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    if (target.byteLength <= MAX_CACHED_READ && readCached(this.#handle.fd, offset, target)) return ENDED;
    return new Promise((resolve, reject) => this.#readRest(offset, target, 0, resolve, reject));
  }

  write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    const written = new Promise<void>((resolve, reject) =>
      this.#writeRest(offset, source, 0, resolve, reject),
    );
    return flags?.fua ? written.then(() => this.flush()) : written;
  }

  /** Callbacks: the promises of FileHandle cost three times as much. */
  #readRest(
    offset: number,
    target: Uint8Array,
    done: number,
    resolve: () => void,
    reject: (error: Error) => void,
  ): void {
    readFile(this.#handle.fd, target, done, target.byteLength - done, offset + done, (error, count) => {
      if (error) {
        reject(this.#failure('read', offset, error));
        return;
      }
      // Somebody made the file shorter: what is gone reads as zeros, as behind the end of a short image.
      if (count === 0) target.fill(0, done);
      if (count === 0 || done + count === target.byteLength) {
        resolve();
        return;
      }
      this.#readRest(offset, target, done + count, resolve, reject);
    });
  }

  #writeRest(
    offset: number,
    source: Uint8Array,
    done: number,
    resolve: () => void,
    reject: (error: Error) => void,
  ): void {
    writeFile(this.#handle.fd, source, done, source.byteLength - done, offset + done, (error, count) => {
      if (error) {
        reject(this.#failure('write', offset, error));
        return;
      }
      if (done + count >= source.byteLength) {
        resolve();
        return;
      }
      this.#writeRest(offset, source, done + count, resolve, reject);
    });
  }

  /**
   * The kernel tells of a write that it could not do once, and to whoever asks first, which may be nobody who cares (a
   * machine that is being stopped flushes too). So after that, as in QEMU, no flush succeeds until the file is opened anew.
   */
  async flush(): Promise<void> {
    if (this.readOnly) return;
    if (this.#lost) throw this.#lost;
    try {
      await this.#handle.datasync();
    } catch (error) {
      this.#lost ??= this.#failure('flush', 0, error);
      throw this.#lost;
    }
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    if (length > 0 && flags?.unmap !== false && punchHole(this.#handle.fd, offset, length)) {
      if (flags?.fua) await this.flush();
      return;
    }
    for (let done = 0; done < length; done += ZEROS.byteLength) {
      await this.write(offset + done, ZEROS.subarray(0, Math.min(ZEROS.byteLength, length - done)));
    }
    if (flags?.fua) await this.flush();
  }

  discard(offset: number, length: number): Promise<void> {
    if (length > 0) punchHole(this.#handle.fd, offset, length);
    return Promise.resolve();
  }

  blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    const extents: BlockExtent[] = [];
    const end = offset + length;
    const add = (at: number, to: number, data: boolean): void => {
      extents.push({ offset: at, length: to - at, zero: !data, data, allocated: true });
    };
    let at = offset;
    while (canSeekHoles() && at < end && extents.length < MAX_EXTENTS) {
      const data = seekTo(this.#handle.fd, 'data', at) ?? end;
      if (data > at) {
        add(at, Math.min(data, end), false);
        at = Math.min(data, end);
      }
      if (at >= end) break;
      // Without an answer the rest is data: that is always safe to say.
      const hole = Math.min(seekTo(this.#handle.fd, 'hole', at) ?? end, end);
      if (hole <= at) break;
      add(at, hole, true);
      at = hole;
    }
    if (at < end) add(at, end, true);
    return Promise.resolve(extents);
  }

  async truncate(lengthBytes: number): Promise<void> {
    try {
      await this.#handle.truncate(lengthBytes);
      this.#lengthBytes = lengthBytes;
    } catch (error) {
      throw this.#failure('resize', lengthBytes, error);
    }
  }

  async close(): Promise<void> {
    this.#unlock();
    await this.#handle.close();
  }

  async #replaceHandle(handle: FileHandle): Promise<void> {
    const old = this.#handle;
    this.#handle = handle;
    this.#unlock();
    await old.close();
  }

  #failure(verb: string, offset: number, cause: unknown): IoError {
    const errno = errnoOf(cause);
    return new IoError(errno, `Cannot ${verb} '${this.filename}' at ${offset}: ${ERRNO_TEXT[errno]}`, {
      cause,
    });
  }
}

async function openHandle(
  filename: string,
  options: FileOpenOptions,
): Promise<{ handle: FileHandle; readOnly: boolean }> {
  const readOnly = options.readOnly ?? false;
  try {
    return { handle: await open(filename, readOnly ? constants.O_RDONLY : constants.O_RDWR), readOnly };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (!readOnly && options.autoReadOnly && (code === 'EACCES' || code === 'EROFS' || code === 'EPERM')) {
      return openHandle(filename, { ...options, readOnly: true });
    }
    throw new ColoError(`Could not open '${filename}': ${fileErrorMessage(error)}`, { cause: error });
  }
}

/** A block device has size 0 in stat: its end is found by halving, as a read behind it gives nothing. */
async function deviceLength(handle: FileHandle): Promise<number> {
  const probe = new Uint8Array(512);
  const readable = async (sector: number): Promise<boolean> =>
    (await handle.read(probe, 0, 512, sector * 512)).bytesRead > 0;
  let low = 0;
  let high = 2 ** 43;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (await readable(middle)) low = middle + 1;
    else high = middle;
  }
  return low * 512;
}

/** Options: `filename` (required), `locking` (auto/on/off), `aio`, `aio-max-batch`, `drop-cache` (no effect), `read-only`, `auto-read-only`, `force-share`. */
export async function openFile(options: OptionReader): Promise<FileDriver> {
  const filename = options.required('filename').replace(/^file:/, '');
  const locking = options.choice('locking', ['auto', 'on', 'off']) !== 'off';
  // How QEMU's requests reach the kernel, and what it does at the end of a migration.
  options.choice('aio', ['threads', 'native', 'io_uring']);
  options.integer('aio-max-batch');
  options.boolean('drop-cache');
  if (options.boolean('x-check-cache-dropped') === true) {
    throw new ParameterError("x-check-cache-dropped=on is not supported by the 'file' driver; leave it out");
  }
  if (options.string('pr-manager') !== undefined) {
    throw new ParameterError(
      "pr-manager is not supported by the 'file' driver: no SCSI reservations; leave it out",
    );
  }
  const readOnly = options.boolean('read-only') ?? false;
  const autoReadOnly = options.boolean('auto-read-only') ?? false;
  const forceShare = options.boolean('force-share') ?? false;
  options.finish('file');
  return FileDriver.open(filename, { readOnly, autoReadOnly, locking: locking && !forceShare });
}
