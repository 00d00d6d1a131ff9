/**
 * The registry in the file arbiter's directory (file-store.ts says how): for a handful of hosts. Looks at the directory
 * before each answer, and once a second for whoever watches.
 */
import { randomBytes } from 'node:crypto';
import type { HostView, VmEntry, VmView } from '../views.ts';
import { FileMirror, encodeBeat } from './file-mirror.ts';
import type { FileSwap } from './file-store.ts';
import { HintTimer } from './hint-timer.ts';
import { NewestOnly } from './newest-only.ts';
import { Registration } from './registration.ts';
import {
  RegistryUnreachableError,
  type PutResult,
  type Registry,
  type Versioned,
  type WatchScope,
} from './registry.ts';
import {
  ENTRY,
  HOST,
  VIEW,
  checkHostName,
  checkVmName,
  decode,
  encode,
  hostsOf,
  outlineOf,
} from './schema.ts';

/** One call, with what waits before it. */
const CALL_DEADLINE_MS = 3_000;
const POLL_MS = 1_000;
/** A host writes that it lives so often, and does not live when that has not been seen for so long. */
const BEAT_MS = 2_000;
const SILENT_MS = 10_000;
/** A view of which only counters have changed is written so often. */
const COUNTERS_MS = 15_000;
const ANYWAY_MS = 20_000;
const MAX_LOOKS = 8;

export interface FileRegistryOptions {
  readonly deadlineMs?: number;
  readonly pollMs?: number;
  readonly beatMs?: number;
  readonly silentMs?: number;
  readonly countersMs?: number;
  readonly anywayMs?: number;
  /** Told what was passed over: a file that cannot be read. */
  readonly onTrouble?: (message: string) => void;
}

export class FileRegistry implements Registry {
  readonly #options: FileRegistryOptions;
  readonly #mirror: FileMirror;
  readonly #watches = new Set<HintTimer>();
  readonly #told = new Map<string, { readonly outline: string; readonly atMs: number }>();
  readonly #incarnation = randomBytes(8).toString('hex');
  readonly #publishing = new NewestOnly((view: VmView) => this.#publishVm(view));
  #registration: Registration | null = null;
  #host: HostView | null = null;
  #beats = 0;
  #poll: NodeJS.Timeout | null = null;
  #isReachable = true;
  #isClosed = false;

  constructor(dir: string, options: FileRegistryOptions = {}) {
    this.#options = options;
    this.#mirror = new FileMirror(dir, {
      deadlineMs: options.deadlineMs ?? CALL_DEADLINE_MS,
      silentMs: options.silentMs ?? SILENT_MS,
      onTrouble: options.onTrouble ?? (() => undefined),
    });
  }

  /** The process that touches the directory, for tests. */
  get pid(): number | undefined {
    return this.#mirror.pid;
  }

  async publish(host: HostView): Promise<void> {
    encode(HOST, host);
    this.#open();
    this.#registration ??= new Registration(
      {
        register: (wanted) => this.#writeHost(wanted, false),
        tell: (wanted) => this.#writeHost(wanted, false),
        keepUp: async () => {
          if (this.#host) await this.#writeHost(this.#host, false);
          return this.#host !== null;
        },
      },
      this.#options.beatMs ?? BEAT_MS,
      host,
    );
    await this.#registration.tell(host);
    this.#lookNow();
  }

  async withdraw(): Promise<void> {
    await this.#registration?.end();
    this.#registration = null;
    if (this.#host) await this.#writeHost(this.#host, true);
    this.#host = null;
    this.#lookNow();
  }

  async forgetHost(name: string): Promise<boolean> {
    if ((await this.host(name))?.isAlive === true) return false;
    await this.#mirror.request({ verb: 'remove-host', name });
    this.#lookNow();
    return true;
  }

  async hosts(): Promise<readonly HostView[]> {
    await this.#look();
    return this.#mirror.hosts().toSorted((one, other) => (one.name < other.name ? -1 : 1));
  }

  /** All of them: there are few. */
  async someHosts(): Promise<readonly HostView[]> {
    return (await this.hosts()).filter(({ isAlive }) => isAlive);
  }

  async host(name: string): Promise<HostView | null> {
    checkHostName(name);
    return (await this.hosts()).find((host) => host.name === name) ?? null;
  }

  async setMaintenance(host: string, isOn: boolean): Promise<void> {
    checkHostName(host);
    await this.#mirror.request({ verb: 'flag', name: host, isOn });
    this.#lookNow();
  }

  async entries(): Promise<readonly Versioned<VmEntry>[]> {
    await this.#look();
    return this.#mirror.entries();
  }

  async entriesOf(host: string): Promise<readonly Versioned<VmEntry>[]> {
    checkHostName(host);
    await this.#look();
    const views = new Map(this.#mirror.views().map((view) => [view.name, view]));
    return this.#mirror
      .entries()
      .filter(({ value }) => hostsOf(value, views.get(value.spec.name) ?? null).has(host));
  }

  async entry(name: string): Promise<Versioned<VmEntry> | null> {
    checkVmName(name);
    await this.#look();
    return this.#mirror.entry(name);
  }

  async putEntry(entry: VmEntry, expected: string | null): Promise<PutResult> {
    const { name } = entry.spec;
    const text = encode(ENTRY, entry);
    const swap = await this.#swap('entries', name, Number(expected ?? '0'), text);
    const version = String(swap.version);
    if (swap.isPut) return { isPut: true, version };
    if (swap.text === null) return { isPut: false, current: null };
    return { isPut: false, current: { value: decode(ENTRY, swap.text, name, `entry ${name}`), version } };
  }

  async removeEntry(name: string, expected: string): Promise<boolean> {
    checkVmName(name);
    const swap = await this.#swap('entries', name, Number(expected), null);
    if (!swap.isPut && swap.text !== null) return false;
    this.#told.delete(name);
    for (let look = 0; look < MAX_LOOKS; look++) {
      await this.#look();
      const there = this.#mirror.versionOf('views', name);
      if (there === 0 || (await this.#swap('views', name, there, null)).isPut) break;
    }
    return true;
  }

  async publishVm(view: VmView): Promise<boolean> {
    checkVmName(view.name);
    return this.#publishing.call(view.name, view);
  }

  async #publishVm(view: VmView): Promise<boolean> {
    const { name } = view;
    const text = encode(VIEW, view);
    const outline = outlineOf(view);
    for (let look = 0; look < MAX_LOOKS; look++) {
      await this.#look();
      if (this.#mirror.versionOf('entries', name) === 0) break;
      const there = readable(() => this.#mirror.view(name));
      if (there && there.value.epoch > view.epoch) break;
      const told = this.#told.get(name);
      const countersMs = this.#options.countersMs ?? COUNTERS_MS;
      const isSame = there !== null && outlineOf(there.value) === outline && told?.outline === outline;
      if (isSame && performance.now() - told.atMs < countersMs) return true;
      const swap = await this.#swap('views', name, this.#mirror.versionOf('views', name), text);
      if (!swap.isPut) continue;
      this.#told.set(name, { outline, atMs: performance.now() });
      return true;
    }
    this.#told.delete(name);
    return false;
  }

  async views(): Promise<readonly VmView[]> {
    await this.#look();
    return this.#mirror.views();
  }

  async view(name: string): Promise<VmView | null> {
    checkVmName(name);
    await this.#look();
    return this.#mirror.view(name)?.value ?? null;
  }

  /** `scope` is not looked at: in a small cluster everything concerns everybody. */
  watch(onChange: () => void, scope: WatchScope = {}): () => void {
    this.#open();
    if (scope.host !== undefined) checkHostName(scope.host);
    const hints = new HintTimer(onChange, this.#options.anywayMs ?? ANYWAY_MS);
    this.#watches.add(hints);
    this.#lookNow();
    return () => {
      this.#watches.delete(hints);
      hints.end();
    };
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#poll) clearInterval(this.#poll);
    for (const hints of this.#watches) hints.end();
    this.#watches.clear();
    this.#mirror.close();
    await this.#registration?.end();
  }

  async #swap(
    folder: 'entries' | 'views',
    name: string,
    expected: number,
    text: string | null,
  ): Promise<FileSwap> {
    const swap = await this.#mirror.request<FileSwap>({ verb: 'swap', folder, name, expected, text });
    this.#lookNow();
    return swap;
  }

  async #writeHost(host: HostView, isGone: boolean): Promise<void> {
    const text = encodeBeat(host, `${this.#incarnation}.${++this.#beats}`, isGone);
    await this.#mirror.request({ verb: 'write-host', name: host.name, text });
    this.#host = host;
  }

  /** Hosts are judged by when they were seen to change: who has looked once goes on. */
  async #look(): Promise<void> {
    this.#open();
    this.#poll ??= setInterval(() => this.#lookNow(), this.#options.pollMs ?? POLL_MS).unref();
    let isNews: boolean;
    try {
      isNews = (await this.#mirror.refresh()) || !this.#isReachable;
      this.#isReachable = true;
    } catch (error) {
      this.#isReachable = false;
      throw error;
    }
    if (isNews) for (const hints of this.#watches) hints.hint();
  }

  #lookNow(): void {
    if (!this.#isClosed) this.#look().catch(() => undefined);
  }

  #open(): void {
    if (this.#isClosed) throw new RegistryUnreachableError('registry: closed');
  }
}

/** One that cannot be read is replaced. */
function readable<T>(read: () => T | null): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}
