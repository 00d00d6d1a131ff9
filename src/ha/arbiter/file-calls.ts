/**
 * The file arbiter's work on its directory, synchronously; it is run in a process of its own (file-child.ts), since a
 * call on a file system whose server is gone may never return.
 *
 * A record is a file `<vm>.<epoch>`; the highest epoch is the record. It is made by link(2) of a temporary file that has
 * been written and synced whole: over NFS, too, exactly one link of a name is made, and a file is never seen half
 * written. Whether a link whose answer was lost was made is told by the nonce in the file (open(2), O_EXCL, recommends the
 * link count; the nonce says more: whose it is).
 *
 * Old epochs are removed, oldest first, but for the first and the last KEPT_EPOCHS. A side that slept meanwhile, or whose client's view
 * of the directory is old, could then link a name that had been used and removed. So after its link it looks whether the
 * record that it replaced is still there, which, by the order of removal, it is not if the name had been used before; and
 * whether a higher epoch is there now. Either way it has lost.
 */
import { randomBytes } from 'node:crypto';
import nodeFs from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import {
  ArbiterRecordError,
  ArbiterUnreachableError,
  sameRecord,
  type ArbiterRecord,
  type Proposal,
  type RecordId,
  type SwapResult,
} from './arbiter.ts';
import { MAX_RECORD_BYTES, decodeRecord, encodeRecord } from './record.ts';
import { messageOf } from '../../base/errors.ts';

/** Epochs that stay. */
export const KEPT_EPOCHS = 8;
/** Says that a directory is an arbiter's, so that an empty mount point is not taken for one. */
export const MARKER = 'colo-arbiter.json';
/** Looks at a directory that changes under them before they give up. */
const MAX_LOOKS = 8;
/** A temporary file that this process has known so long (by its own monotonic clock) was left behind. Tidiness only. */
const LEFT_BEHIND_MS = 3_600_000;

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK } = nodeFs.constants;

/** What is used of node:fs; tests put faults between. */
export type Fs = Pick<
  typeof nodeFs,
  | 'openSync'
  | 'closeSync'
  | 'fstatSync'
  | 'statSync'
  | 'readSync'
  | 'writeSync'
  | 'fsyncSync'
  | 'linkSync'
  | 'unlinkSync'
  | 'readdirSync'
>;

/** Makes a directory into an arbiter's; once, by a person, who knows that it is the one that both sides see. */
export function prepareDirectory(dir: string, fs: Fs = nodeFs): string {
  const identity = `file:${randomBytes(16).toString('hex')}`;
  try {
    publish(fs, dir, MARKER, JSON.stringify({ version: 1, identity }));
  } catch (error) {
    const cause = error instanceof NotLinkedError ? error.cause : error;
    if (codeOf(cause) !== 'EEXIST') throw unreachable(dir, false, cause);
  }
  return readIdentity(dir, fs);
}

export function readIdentity(dir: string, fs: Fs = nodeFs): string {
  const file = path.join(dir, MARKER);
  const text = readSmall(fs, file);
  if (text === null) {
    throw new ArbiterUnreachableError(
      `arbiter ${dir}: there is no ${MARKER}. Is the file system mounted? A new directory has to be prepared first`,
      false,
    );
  }
  const marker = z.object({ version: z.int(), identity: z.string().min(1).max(128) }).safeParse(parse(text));
  if (!marker.success) throw new ArbiterRecordError(`${file}: not the mark of an arbiter's directory`);
  if (marker.data.version !== 1) {
    throw new ArbiterRecordError(`${file}: of version ${marker.data.version}, this program knows version 1`);
  }
  return marker.data.identity;
}

export function readRecord(dir: string, vm: string, fs: Fs = nodeFs): ArbiterRecord | null {
  readIdentity(dir, fs);
  return newest(dir, vm, fs);
}

/** As Arbiter.swap; `expected` null creates. */
export function swapRecord(
  dir: string,
  vm: string,
  expected: RecordId | null,
  next: Proposal,
  fs: Fs = nodeFs,
): SwapResult {
  readIdentity(dir, fs);
  const current = newest(dir, vm, fs);
  const record: ArbiterRecord = { version: 1, vm, epoch: (expected?.epoch ?? 0) + 1, ...next };
  if (current?.epoch === record.epoch && current.nonce === next.nonce)
    return { outcome: 'won', record: current };
  const isExpected = expected === null ? current === null : current !== null && sameRecord(current, expected);
  if (!isExpected) return { outcome: 'lost', current };
  try {
    publish(fs, dir, fileName(vm, record.epoch), encodeRecord(record));
  } catch (error) {
    if (error instanceof NotLinkedError) throw unreachable(dir, false, error.cause);
    if (codeOf(error) !== 'EEXIST') throw unreachable(dir, true, error);
    // Somebody's: it may be ours, if the first answer was lost.
  }
  try {
    const result = settle(dir, vm, expected, record, fs);
    if (result.outcome === 'won') tidyUp(dir, vm, record.epoch, fs);
    return result;
  } catch (error) {
    if (error instanceof ArbiterUnreachableError) throw unreachable(dir, true, error);
    throw error;
  }
}

/** After the link: whose is it, and was it made in time? */
function settle(dir: string, vm: string, expected: RecordId | null, mine: ArbiterRecord, fs: Fs): SwapResult {
  const file = path.join(dir, fileName(vm, mine.epoch));
  const text = readSmall(fs, file);
  if (text === null) throw new ArbiterUnreachableError(`${file}: it should be there, and is not`, true);
  if (decodeRecord(text, vm, file).nonce !== mine.nonce)
    return { outcome: 'lost', current: newest(dir, vm, fs) };
  if (expected !== null) {
    const before = path.join(dir, fileName(vm, expected.epoch));
    const replaced = readSmall(fs, before);
    if (replaced === null || !sameRecord(decodeRecord(replaced, vm, before), expected)) {
      return lostLate(dir, vm, file, fs);
    }
  }
  const highest = newest(dir, vm, fs);
  if (highest && highest.epoch > mine.epoch) return lostLate(dir, vm, file, fs, expected !== null);
  return { outcome: 'won', record: mine };
}

/** The name had been used before, or somebody has gone on from it since. In the first case ours must go. */
function lostLate(dir: string, vm: string, file: string, fs: Fs, mayStay = false): SwapResult {
  if (!mayStay) fs.unlinkSync(file);
  return { outcome: 'lost', current: newest(dir, vm, fs) };
}

/** The record with the highest epoch. A directory that is cleaned up at the same time is looked at again. */
function newest(dir: string, vm: string, fs: Fs): ArbiterRecord | null {
  for (let look = 0; look < MAX_LOOKS; look++) {
    const epoch = epochs(dir, vm, fs).at(-1);
    if (epoch === undefined) return null;
    const file = path.join(dir, fileName(vm, epoch));
    const text = readSmall(fs, file);
    if (text === null) continue;
    const record = decodeRecord(text, vm, file);
    if (record.epoch !== epoch) throw new ArbiterRecordError(`${file}: holds epoch ${record.epoch}; a copy?`);
    return record;
  }
  throw new ArbiterUnreachableError(`arbiter ${dir}: the records of '${vm}' do not stay in place`, false);
}

function epochs(dir: string, vm: string, fs: Fs): number[] {
  const start = `${escapeName(vm)}.`;
  let names: string[];
  try {
    names = fs.readdirSync(dir);
  } catch (error) {
    throw unreachable(dir, false, error);
  }
  return names
    .filter((name) => name.startsWith(start) && /^[1-9]\d{0,15}$/.test(name.slice(start.length)))
    .map((name) => Number(name.slice(start.length)))
    .filter((epoch) => Number.isSafeInteger(epoch))
    .toSorted((one, other) => one - other);
}

/** The temporary file could not be had: nothing has happened. */
export class NotLinkedError extends Error {}

/** Writes a file that appears whole or not at all. Throws link's error, or NotLinkedError before. */
export function publish(fs: Fs, dir: string, name: string, text: string): void {
  const temporary = path.join(dir, `.new-${randomBytes(12).toString('hex')}`);
  try {
    const fd = fs.openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at);
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  } catch (error) {
    quietly(() => fs.unlinkSync(temporary));
    throw new NotLinkedError(messageOf(error), { cause: error });
  }
  try {
    fs.linkSync(temporary, path.join(dir, name));
    syncDirectory(fs, dir);
  } finally {
    quietly(() => fs.unlinkSync(temporary));
  }
}

function syncDirectory(fs: Fs, dir: string): void {
  const fd = fs.openSync(dir, O_RDONLY);
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** Removes old epochs, oldest first, and gives up at the first that will not go: the order is what makes it safe. */
function tidyUp(dir: string, vm: string, epoch: number, fs: Fs): void {
  quietly(() => {
    const old = epochs(dir, vm, fs).filter((other) => other > 1 && other <= epoch - KEPT_EPOCHS);
    for (const other of old) fs.unlinkSync(path.join(dir, fileName(vm, other)));
    const temporary = fs.readdirSync(dir).filter((name) => /^\.new-[0-9a-f]{24}$/.test(name));
    const now = performance.now();
    const files = temporary.slice(0, MAX_KNOWN_TEMPORARY).map((name) => path.join(dir, name));
    const since = new Map(files.map((file) => [file, knownSince.get(file) ?? now]));
    knownSince = since;
    for (const [file, from] of since) if (now - from > LEFT_BEHIND_MS) fs.unlinkSync(file);
  });
}

/** Temporary files of anybody's, and when they were first seen here. */
let knownSince: ReadonlyMap<string, number> = new Map();
const MAX_KNOWN_TEMPORARY = 1_024;

/** Null when there is no such file. Only plain files of a record's size are read. */
function readSmall(fs: Fs, file: string): string | null {
  let fd: number;
  try {
    fd = fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT') return null;
    if (code === 'ELOOP') throw new ArbiterRecordError(`${file}: a symbolic link, not a record`);
    throw unreachable(file, false, error);
  }
  try {
    const { size } = plainFile(fs, fd, file);
    const bytes = Buffer.alloc(size);
    let at = 0;
    while (at < size) {
      const read = fs.readSync(fd, bytes, at, size - at, at);
      if (read === 0) break;
      at += read;
    }
    return bytes.toString('utf8', 0, at);
  } catch (error) {
    if (error instanceof ArbiterRecordError) throw error;
    throw unreachable(file, false, error);
  } finally {
    quietly(() => fs.closeSync(fd));
  }
}

function plainFile(fs: Fs, fd: number, file: string): nodeFs.Stats {
  const stat = fs.fstatSync(fd);
  if (!stat.isFile()) throw new ArbiterRecordError(`${file}: not a plain file, and so not a record`);
  if (stat.size > MAX_RECORD_BYTES) throw new ArbiterRecordError(`${file}: too large to be a record`);
  return stat;
}

export function fileName(vm: string, epoch: number): string {
  return `${escapeName(vm)}.${epoch}`;
}

/** Letters, digits, `_` and `-` stay; any other byte is %XX. So no name has a dot, a slash, or begins with one. */
function escapeName(vm: string): string {
  return [...Buffer.from(vm)]
    .map((byte) => {
      const letter = String.fromCharCode(byte);
      return /[A-Za-z0-9_-]/.test(letter) ? letter : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
    })
    .join('');
}

function unreachable(what: string, mayHaveHappened: boolean, error: unknown): ArbiterUnreachableError {
  if (error instanceof ArbiterUnreachableError && error.mayHaveHappened === mayHaveHappened) return error;
  const hint = HINTS[codeOf(error) ?? ''];
  return new ArbiterUnreachableError(
    `arbiter ${what}: ${messageOf(error)}${hint === undefined ? '' : `; ${hint}`}`,
    mayHaveHappened,
    { cause: error },
  );
}

const HINTS: Readonly<Record<string, string>> = {
  ENOSPC: 'the file system is full: make room, a record takes one block',
  EDQUOT: 'the quota is used up',
  EROFS: 'the file system is mounted read-only',
  EPERM: 'this file system has no hard links, or forbids them: use one that has',
  ENOTSUP: 'this file system has no hard links: use one that has',
  EACCES: 'both sides need to read and write there as the same user',
  ESTALE: 'the export has gone away: mount it again',
  ENOENT: 'the directory is not there: is the file system mounted?',
};

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | null | undefined)?.code;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function quietly(work: () => void): void {
  try {
    work();
  } catch {
    // What is left behind does no harm.
  }
}
