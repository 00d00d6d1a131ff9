/**
 * The file registry's work on its directory, synchronously, in a process of its own (file-store-child.ts). The directory
 * is the file arbiter's, prepared by a person; this is its folder `registry`:
 *
 *   entries/VM.N, views/VM.N   state N of it, made by link(2) of a whole file, so that of all who want to make state N one
 *                              does; the highest is what counts. An empty file: removed. It stays, so that no N comes twice.
 *   hosts/HOST.json            replaced by its one writer, by rename(2)
 *   maintenance/HOST           there: it is in maintenance
 *
 * Older states are removed. Whoever slept through that, and links a name that is free again, finds a higher one there and
 * has lost. Unlike the arbiter's this is no matter of life and death: a put that was carried out and replaced at once may
 * be told as lost.
 */
import { randomBytes } from 'node:crypto';
import nodeFs from 'node:fs';
import path from 'node:path';
import { ColoError } from '../../base/errors.ts';
import { NotLinkedError, publish, readIdentity } from '../arbiter/file-calls.ts';

/** States of an entry that stay, for whoever has just listed them. */
export const KEPT_STATES = 3;
/** In one folder. */
const MAX_FILES = 16_384;
const MAX_FILE_BYTES = 64 * 1024;
const MAX_LOOKS = 8;

export const VERSIONED = ['entries', 'views'] as const;
export type VersionedFolder = (typeof VERSIONED)[number];

export interface Scan {
  /** Of each name the highest state. */
  readonly entries: Readonly<Record<string, number>>;
  readonly views: Readonly<Record<string, number>>;
  /** What stands in each host's file. */
  readonly hosts: Readonly<Record<string, string>>;
  readonly maintenance: readonly string[];
}

/** `text` null: there is none, or it is removed. */
export interface State {
  readonly version: number;
  readonly text: string | null;
}

export type FileSwap = { readonly isPut: boolean } & State;

export function scan(dir: string): Scan {
  const root = open(dir);
  const hosts: Record<string, string> = {};
  for (const file of list(path.join(root, 'hosts'))) {
    if (!file.endsWith('.json') || file.startsWith('.')) continue;
    const text = readText(path.join(root, 'hosts', file));
    if (text !== null) hosts[file.slice(0, -'.json'.length)] = text;
  }
  return {
    entries: highest(path.join(root, 'entries')),
    views: highest(path.join(root, 'views')),
    hosts,
    maintenance: list(path.join(root, 'maintenance')),
  };
}

/** The newest of some, which may be newer than what was listed. */
export function readStates(dir: string, folder: VersionedFolder, names: readonly string[]): State[] {
  const at = path.join(open(dir), folder);
  return names.map((name) => newest(at, name));
}

/** Replaces state `expected` (0: there is none, or it is removed). `text` null removes. */
export function swapState(
  dir: string,
  folder: VersionedFolder,
  name: string,
  expected: number,
  text: string | null,
): FileSwap {
  const at = path.join(open(dir), folder);
  const current = newest(at, name);
  const isExpected = expected === 0 ? current.text === null : current.version === expected;
  if (!isExpected) return { isPut: current.text === text, ...current };
  const version = current.version + 1;
  try {
    publish(nodeFs, at, `${name}.${version}`, text ?? '');
  } catch (error) {
    const cause = error instanceof NotLinkedError ? error.cause : error;
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
  }
  const after = newest(at, name);
  if (after.version > version) quietly(() => nodeFs.unlinkSync(path.join(at, `${name}.${version}`)));
  else tidyUp(at, name, version);
  return { isPut: after.text === text, ...after };
}

export function writeHost(dir: string, name: string, text: string): void {
  const folder = path.join(open(dir), 'hosts');
  const temporary = path.join(folder, `.new-${randomBytes(8).toString('hex')}`);
  try {
    nodeFs.writeFileSync(temporary, text, { mode: 0o600, flag: 'wx' });
    nodeFs.renameSync(temporary, path.join(folder, `${name}.json`));
  } catch (error) {
    quietly(() => nodeFs.unlinkSync(temporary));
    throw error;
  }
}

export function removeHost(dir: string, name: string): void {
  const root = open(dir);
  nodeFs.rmSync(path.join(root, 'hosts', `${name}.json`), { force: true });
  nodeFs.rmSync(path.join(root, 'maintenance', name), { force: true });
}

export function setFlag(dir: string, name: string, isOn: boolean): void {
  const file = path.join(open(dir), 'maintenance', name);
  if (isOn) nodeFs.writeFileSync(file, '', { mode: 0o600 });
  else nodeFs.rmSync(file, { force: true });
}

/** Throws when the directory is no arbiter's: an empty mount point is not taken for one. */
function open(dir: string): string {
  readIdentity(dir);
  const root = path.join(dir, 'registry');
  for (const folder of [...VERSIONED, 'hosts', 'maintenance']) {
    nodeFs.mkdirSync(path.join(root, folder), { recursive: true, mode: 0o700 });
  }
  return root;
}

function list(folder: string): string[] {
  const files = nodeFs.readdirSync(folder);
  if (files.length > MAX_FILES) throw new ColoError(`${folder}: more than ${MAX_FILES} files; tidy up there`);
  return files;
}

/** A name has no dot in it: what is after the last one is the state. */
function highest(folder: string): Record<string, number> {
  const found: Record<string, number> = {};
  for (const file of list(folder)) {
    const [, name = '', digits = ''] = /^([a-z][a-z0-9-]*)\.([1-9]\d{0,14})$/.exec(file) ?? [];
    if (name !== '') found[name] = Math.max(found[name] ?? 0, Number(digits));
  }
  return found;
}

function newest(folder: string, name: string): State {
  for (let look = 0; look < MAX_LOOKS; look++) {
    const version = highest(folder)[name];
    if (version === undefined) return { version: 0, text: null };
    const text = readText(path.join(folder, `${name}.${version}`));
    // Removed since: there is a higher one.
    if (text !== null) return { version, text: text === '' ? null : text };
  }
  throw new ColoError(`${folder}: the states of '${name}' do not stay in place`);
}

function readText(file: string): string | null {
  try {
    if (nodeFs.lstatSync(file).size > MAX_FILE_BYTES) return '{}';
    return nodeFs.readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function tidyUp(folder: string, name: string, version: number): void {
  quietly(() => {
    for (const file of list(folder)) {
      const digits = file.startsWith(`${name}.`) ? file.slice(name.length + 1) : '';
      if (/^\d+$/.test(digits) && Number(digits) <= version - KEPT_STATES) {
        nodeFs.unlinkSync(path.join(folder, file));
      }
    }
  });
}

function quietly(work: () => void): void {
  try {
    work();
  } catch {
    // What is left behind does no harm.
  }
}
