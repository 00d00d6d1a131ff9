/**
 * Image locking as in QEMU: whoever writes an image shares it with nobody, readers share it with each other. It holds
 * within this process and against other processes, QEMU's tools included, because the same bytes of the file are locked
 * (QEMU block/file-posix.c: byte 100+n for a permission held, 200+n for one not shared with others; n: 0 consistent
 * read, 1 write, 3 resize). Where OFD locks do not exist, a table of this process's open files does the first half.
 */
import { ColoError } from '../../base/errors.ts';
import { isLockedByOthers, setSharedLock } from './libc.ts';

const HELD_BASE = 100;
const UNSHARED_BASE = 200;
const READ = { bit: 0, name: 'consistent read' };
const WRITE = { bit: 1, name: 'write' };
const RESIZE = { bit: 3, name: 'resize' };

/** `dev:ino` → how it is open here. */
const openHere = new Map<string, { readers: number; writers: number }>();

/**
 * Locks the open file `fd` for as long as it is open; returns what to call when it is closed. `identity` is `dev:ino`.
 * Throws ColoError with QEMU's text when somebody else's use forbids it.
 */
export function lockImage(fd: number, identity: string, path: string, writable: boolean): () => void {
  const held = writable ? [READ, WRITE, RESIZE] : [READ];
  const unshared = [WRITE, RESIZE];
  lockHere(identity, path, writable);
  try {
    for (const { bit } of held) setSharedLock(fd, HELD_BASE + bit, 1, true);
    for (const { bit } of unshared) setSharedLock(fd, UNSHARED_BASE + bit, 1, true);
    for (const { bit, name } of held) {
      if (isLockedByOthers(fd, UNSHARED_BASE + bit, 1) === true)
        throw refusal(`Failed to get "${name}" lock`, path);
    }
    for (const { bit, name } of unshared) {
      if (isLockedByOthers(fd, HELD_BASE + bit, 1) === true)
        throw refusal(`Failed to get shared "${name}" lock`, path);
    }
  } catch (error) {
    unlockHere(identity, writable);
    throw error;
  }
  let released = false;
  return () => {
    if (released) return;
    released = true;
    unlockHere(identity, writable);
  };
}

function lockHere(identity: string, path: string, writable: boolean): void {
  const open = openHere.get(identity) ?? { readers: 0, writers: 0 };
  if (writable && open.readers + open.writers > 0) throw refusal('Failed to get "write" lock', path);
  if (!writable && open.writers > 0) throw refusal('Failed to get shared "write" lock', path);
  if (writable) open.writers++;
  else open.readers++;
  openHere.set(identity, open);
}

function unlockHere(identity: string, writable: boolean): void {
  const open = openHere.get(identity);
  if (!open) return;
  if (writable) open.writers--;
  else open.readers--;
  if (open.readers + open.writers === 0) openHere.delete(identity);
}

function refusal(what: string, path: string): ColoError {
  return new ColoError(`${what}\nIs another process using the image [${path}]?`);
}
