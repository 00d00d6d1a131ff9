/**
 * What one process knows of the file registry's directory: refreshed by a look at it, in which only what has changed is
 * read. A look that was begun after a change has been told of it, as far as the file system lets it.
 */
import { z } from 'zod';
import { Mutex } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import { FileProcess, NoAnswerError, moduleBeside } from '../arbiter/file-process.ts';
import type { HostView, VmEntry, VmView } from '../views.ts';
import type { Scan, State, VersionedFolder } from './file-store.ts';
import type { StoreAnswer, StoreRequest } from './file-store-child.ts';
import { Liveness } from './liveness.ts';
import { RegistryDataError, RegistryUnreachableError, type Versioned } from './registry.ts';
import { ENTRY, HOST, VIEW, decode, encode, type Kind } from './schema.ts';

/** Texts asked for at once. */
const READ_STEP = 64;

/** A host's file: its view, and what changes with every sign of life. */
const beatFile = z.object({ beat: z.string().max(256), isGone: z.boolean(), host: z.unknown() });

interface Kept<T> {
  readonly version: number;
  /** Null: removed. */
  readonly value: T | null;
  readonly error: RegistryDataError | null;
}

export class FileMirror {
  readonly #dir: string;
  readonly #process: FileProcess<StoreRequest, StoreAnswer>;
  readonly #liveness: Liveness;
  readonly #onTrouble: (message: string) => void;
  readonly #turn = new Mutex();
  readonly #entries = new Map<string, Kept<VmEntry>>();
  readonly #views = new Map<string, Kept<VmView>>();
  #hosts: readonly { readonly view: HostView; readonly isGone: boolean }[] = [];
  #maintenance: ReadonlySet<string> = new Set();
  #queued: Promise<boolean> | null = null;
  #digest = '';

  constructor(
    dir: string,
    options: { deadlineMs: number; silentMs: number; onTrouble: (message: string) => void },
  ) {
    this.#dir = dir;
    this.#process = new FileProcess(
      moduleBeside(import.meta.url, 'file-store-child'),
      `registry ${dir}`,
      options.deadlineMs,
    );
    this.#liveness = new Liveness(options.silentMs);
    this.#onTrouble = options.onTrouble;
  }

  close(): void {
    this.#process.close();
  }

  /** For tests. */
  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** A look that begins after this call. True: something has changed since the one before it. */
  refresh(): Promise<boolean> {
    this.#queued ??= this.#turn.run(() => {
      this.#queued = null;
      return this.#look();
    });
    return this.#queued;
  }

  hosts(): HostView[] {
    const now = performance.now();
    return this.#hosts.map(({ view, isGone }) => ({
      ...view,
      isAlive: !isGone && this.#liveness.isAlive(view.name, now),
      isInMaintenance: this.#maintenance.has(view.name),
    }));
  }

  entries(): Versioned<VmEntry>[] {
    return present(this.#entries);
  }

  views(): VmView[] {
    return present(this.#views).map(({ value }) => value);
  }

  /** Throws RegistryDataError for one that cannot be read. */
  entry(name: string): Versioned<VmEntry> | null {
    return one(this.#entries, name);
  }

  view(name: string): Versioned<VmView> | null {
    return one(this.#views, name);
  }

  /** Of what stands there or has stood there; 0: never. Also of what cannot be read. */
  versionOf(folder: VersionedFolder, name: string): number {
    const kept = (folder === 'entries' ? this.#entries : this.#views).get(name);
    return kept && (kept.value !== null || kept.error) ? kept.version : 0;
  }

  async request<T>(
    request: StoreRequest extends infer R ? (R extends unknown ? Omit<R, 'dir'> : never) : never,
  ): Promise<T> {
    let answer: StoreAnswer;
    try {
      answer = await this.#process.call({ ...request, dir: this.#dir });
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      throw new RegistryUnreachableError(error.message, { cause: error });
    }
    if (!answer.ok) throw new RegistryUnreachableError(`registry ${this.#dir}: ${answer.message}`);
    return answer.value as T;
  }

  async #look(): Promise<boolean> {
    const found = await this.request<Scan>({ verb: 'scan' });
    await this.#read('entries', ENTRY, this.#entries, found.entries);
    await this.#read('views', VIEW, this.#views, found.views);
    this.#liveness.look(found.hosts, performance.now());
    this.#maintenance = new Set(found.maintenance);
    this.#hosts = Object.entries(found.hosts).flatMap(([name, text]) => {
      const host = this.#decodeHost(name, text);
      return host ? [host] : [];
    });
    const digest = JSON.stringify([
      found.entries,
      found.views,
      this.hosts().map((host) => ({ ...host, beat: undefined })),
    ]);
    const isChanged = digest !== this.#digest;
    this.#digest = digest;
    return isChanged;
  }

  async #read<T>(
    folder: VersionedFolder,
    kind: Kind<T>,
    known: Map<string, Kept<T>>,
    found: Readonly<Record<string, number>>,
  ): Promise<void> {
    for (const name of known.keys()) if (!Object.hasOwn(found, name)) known.delete(name);
    const changed = Object.entries(found).filter(([name, version]) => known.get(name)?.version !== version);
    for (let at = 0; at < changed.length; at += READ_STEP) {
      const names = changed.slice(at, at + READ_STEP).map(([name]) => name);
      const states = await this.request<State[]>({ verb: 'read', folder, names });
      for (const [index, { version, text }] of states.entries()) {
        const name = names[index]!;
        known.set(name, this.#keep(kind, name, version, text, `${this.#dir}/registry/${folder}/${name}`));
      }
    }
  }

  #keep<T>(kind: Kind<T>, name: string, version: number, text: string | null, where: string): Kept<T> {
    try {
      const value = text === null ? null : decode(kind, text, name, `${where}.${version}`);
      return { version, value, error: null };
    } catch (error) {
      if (!(error instanceof RegistryDataError)) throw error;
      this.#onTrouble(messageOf(error));
      return { version, value: null, error };
    }
  }

  #decodeHost(name: string, text: string): { view: HostView; isGone: boolean } | null {
    try {
      const file = beatFile.parse(JSON.parse(text));
      const where = `${this.#dir}/registry/hosts/${name}.json`;
      return { view: decode(HOST, JSON.stringify(file.host), name, where), isGone: file.isGone };
    } catch (error) {
      this.#onTrouble(messageOf(error));
      return null;
    }
  }
}

export function encodeBeat(host: HostView, beat: string, isGone: boolean): string {
  encode(HOST, host);
  return JSON.stringify({ beat, isGone, host });
}

function present<T>(known: ReadonlyMap<string, Kept<T>>): Versioned<T>[] {
  return [...known.values()].flatMap(({ value, version }) =>
    value === null ? [] : [{ value, version: String(version) }],
  );
}

function one<T>(known: ReadonlyMap<string, Kept<T>>, name: string): Versioned<T> | null {
  const kept = known.get(name);
  if (kept?.error) throw kept.error;
  return !kept || kept.value === null ? null : { value: kept.value, version: String(kept.version) };
}
