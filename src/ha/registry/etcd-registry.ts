/**
 * The registry in etcd, beside the arbiter's records (`/colo/vms/`):
 *
 *   /colo/hosts/HOST         what the host tells; stays when it is away
 *   /colo/alive/HOST         on the host's lease
 *   /colo/maintenance/HOST   there: it is in maintenance
 *   /colo/entries/VM         what people want
 *   /colo/views/VM           what its holder tells
 *   /colo/at/HOST/VM         the VM concerns the host: its home, or a host of the newest view
 *
 * `at` is the index that makes it bearable for many hosts: a daemon watches and reads /colo/at/ITSELF/ and no more, and
 * whoever changes an entry puts the keys of the hosts that it concerns in the same transaction. A change of a VM is told to
 * two or three hosts, not to all.
 */
import { Deferred } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import { EtcdClient, type EtcdOptions } from '../arbiter/etcd-client.ts';
import type { HostView, VmEntry, VmView } from '../views.ts';
import { EtcdKeys, type Found, type Op } from './etcd-keys.ts';
import { EtcdLease } from './etcd-lease.ts';
import { HintTimer } from './hint-timer.ts';
import { NewestOnly } from './newest-only.ts';
import { Registration } from './registration.ts';
import {
  RegistryDataError,
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
  type Kind,
} from './schema.ts';

const DEFAULT_PREFIX = '/colo';
/** A host that has not been heard for so long is not alive; it says so three times in that time. */
const LEASE_SECONDS = 15;
/** A view of which only counters have changed is written so often. */
const COUNTERS_MS = 60_000;
/** Whoever watches is told that there may have been a change. */
const ANYWAY_MS = 60_000;
/** Pause before a watch is set up again. */
const REWATCH_MS = 500;
/** Names of living hosts, out of which some are chosen by chance, are read again after so long. */
const NAMES_MS = 10_000;
/** A view that is changed by others at the same time is looked at again so often. */
const MAX_LOOKS = 8;
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

export interface EtcdRegistryOptions extends EtcdOptions {
  readonly leaseSeconds?: number;
  readonly countersMs?: number;
  readonly anywayMs?: number;
  /** Told what was passed over: a key that cannot be read. */
  readonly onTrouble?: (message: string) => void;
}

/** Of a view that this process has written. */
interface Written {
  readonly revision: string;
  readonly outline: string;
  readonly hosts: ReadonlySet<string>;
  readonly atMs: number;
}

export class EtcdRegistry implements Registry {
  readonly #client: EtcdClient;
  readonly #keys: EtcdKeys;
  readonly #options: EtcdRegistryOptions;
  readonly #prefix: string;
  readonly #written = new Map<string, Written>();
  readonly #watches = new Set<() => void>();
  readonly #publishing = new NewestOnly((view: VmView) => this.#publishVm(view));
  #registration: Registration | null = null;
  #lease: EtcdLease | null = null;
  #names: { readonly names: readonly string[]; readonly atMs: number } | null = null;
  #isClosed = false;

  constructor(options: EtcdRegistryOptions) {
    this.#client = new EtcdClient({ maxAnswerBytes: MAX_ANSWER_BYTES, ...options });
    this.#keys = new EtcdKeys(this.#client);
    this.#options = options;
    this.#prefix = options.prefix ?? DEFAULT_PREFIX;
  }

  async publish(host: HostView): Promise<void> {
    encode(HOST, host);
    this.#open();
    if (!this.#registration) {
      const seconds = this.#options.leaseSeconds ?? LEASE_SECONDS;
      const keyOf = (name: string): { host: string; alive: string } => ({
        host: this.#key('hosts', name),
        alive: this.#key('alive', name),
      });
      this.#lease = new EtcdLease(this.#keys, seconds, keyOf);
      this.#registration = new Registration(this.#lease, (seconds * 1000) / 3, host);
    }
    await this.#registration.tell(host);
  }

  async withdraw(): Promise<void> {
    const lease = this.#lease;
    await this.#registration?.end();
    this.#registration = null;
    this.#lease = null;
    await lease?.giveUp();
  }

  async forgetHost(name: string): Promise<boolean> {
    checkHostName(name);
    const { isDone } = await this.#keys.txn(
      [{ key: this.#key('alive', name), isRevision: '0' }],
      [{ remove: this.#key('hosts', name) }, { remove: this.#key('maintenance', name) }],
      [],
    );
    return isDone;
  }

  async hosts(): Promise<readonly HostView[]> {
    const [hosts, alive, maintenance] = await Promise.all([
      this.#keys.list(this.#key('hosts'), { maxValueBytes: HOST.maxBytes }),
      this.#keys.list(this.#key('alive'), { isKeysOnly: true }),
      this.#keys.list(this.#key('maintenance'), { isKeysOnly: true }),
    ]);
    const living = new Set(alive.map(({ key }) => lastOf(key)));
    const away = new Set(maintenance.map(({ key }) => lastOf(key)));
    return this.#decodeAll(HOST, hosts).map(({ value }) => ({
      ...value,
      isAlive: living.has(value.name),
      isInMaintenance: away.has(value.name),
    }));
  }

  async someHosts(count: number, names: readonly string[] = []): Promise<readonly HostView[]> {
    for (const name of names) checkHostName(name);
    const now = performance.now();
    if (!this.#names || now - this.#names.atMs > NAMES_MS) {
      const alive = await this.#keys.list(this.#key('alive'), { isKeysOnly: true });
      this.#names = { names: alive.map(({ key }) => lastOf(key)), atMs: now };
    }
    const chosen = [...new Set([...names, ...sample(this.#names.names, count)])].slice(0, count);
    const found = await this.#keys.getMany(
      chosen.flatMap((name) => [
        this.#key('hosts', name),
        this.#key('alive', name),
        this.#key('maintenance', name),
      ]),
      HOST.maxBytes,
    );
    return chosen.flatMap((name, at) => {
      const [host, alive, maintenance] = found.slice(3 * at, 3 * at + 3);
      const view = host && alive ? this.#tryDecode(HOST, host) : null;
      return view ? [{ ...view, isAlive: true, isInMaintenance: Boolean(maintenance) }] : [];
    });
  }

  async host(name: string): Promise<HostView | null> {
    checkHostName(name);
    const keys = (['hosts', 'alive', 'maintenance'] as const).map((kind) => this.#key(kind, name));
    const [host, alive, maintenance] = await this.#keys.getMany(keys, HOST.maxBytes);
    if (!host) return null;
    const view = decode(HOST, host.value, name, `etcd key ${host.key}`);
    return { ...view, isAlive: Boolean(alive), isInMaintenance: Boolean(maintenance) };
  }

  async setMaintenance(host: string, isOn: boolean): Promise<void> {
    checkHostName(host);
    const key = this.#key('maintenance', host);
    await this.#keys.txn(
      [],
      [isOn ? { put: key, value: '' } : { remove: key }, { put: this.#index(host), value: '' }],
      [],
    );
  }

  async entries(): Promise<readonly Versioned<VmEntry>[]> {
    return this.#decodeAll(
      ENTRY,
      await this.#keys.list(this.#key('entries'), { maxValueBytes: ENTRY.maxBytes }),
    );
  }

  async entriesOf(host: string): Promise<readonly Versioned<VmEntry>[]> {
    checkHostName(host);
    const index = await this.#keys.list(this.#index(host), { isKeysOnly: true });
    const names = index.map(({ key }) => lastOf(key)).filter((name) => name !== '');
    const found = await this.#keys.getMany(
      names.map((name) => this.#key('entries', name)),
      ENTRY.maxBytes,
    );
    return this.#decodeAll(
      ENTRY,
      found.filter((one) => one !== null),
    );
  }

  async entry(name: string): Promise<Versioned<VmEntry> | null> {
    checkVmName(name);
    const found = await this.#keys.get(this.#key('entries', name));
    return found && this.#decodeEntry(name, found);
  }

  async putEntry(entry: VmEntry, expected: string | null): Promise<PutResult> {
    const { name } = entry.spec;
    const value = encode(ENTRY, entry);
    const key = this.#key('entries', name);
    // Of one that is not there nobody knows yet.
    const concerned = expected === null ? new Set<string>() : await this.#concerned(name);
    concerned.add(entry.home);
    const { isDone, revision, got } = await this.#keys.txn(
      [{ key, isRevision: expected ?? '0' }],
      [{ put: key, value }, ...this.#pokes(concerned, name)],
      [{ get: key }],
    );
    if (isDone) return { isPut: true, version: revision };
    const current = got[0] ?? null;
    // Ours, if an answer was lost.
    if (current?.value === value) return { isPut: true, version: current.revision };
    return { isPut: false, current: current && this.#decodeEntry(name, current) };
  }

  async removeEntry(name: string, expected: string): Promise<boolean> {
    checkVmName(name);
    const key = this.#key('entries', name);
    const concerned = await this.#concerned(name);
    const { isDone, got } = await this.#keys.txn(
      [{ key, isRevision: expected }],
      [
        { remove: key },
        { remove: this.#key('views', name) },
        ...[...concerned].map((host) => ({ remove: this.#key('at', host, name) })),
      ],
      [{ get: key }],
    );
    this.#written.delete(name);
    return isDone || !got[0];
  }

  async publishVm(view: VmView): Promise<boolean> {
    checkVmName(view.name);
    return this.#publishing.call(view.name, view);
  }

  async #publishVm(view: VmView): Promise<boolean> {
    const value = encode(VIEW, view);
    const { name } = view;
    const outline = outlineOf(view);
    let before = this.#written.get(name) ?? null;
    const isNews = before?.outline !== outline;
    const countersMs = this.#options.countersMs ?? COUNTERS_MS;
    if (before && !isNews && performance.now() - before.atMs < countersMs) return true;
    const key = this.#key('views', name);
    const hosts = hostsOf(null, view);
    // What nobody has told of yet costs one request.
    before ??= { revision: '0', outline: '', hosts: new Set(), atMs: 0 };
    for (let look = 0; before && look < MAX_LOOKS; look++) {
      const moved = await this.#moves(name, before.hosts, hosts);
      const { isDone, revision, got } = await this.#keys.txn(
        [
          { key, isRevision: before.revision },
          { key: this.#key('entries', name), isThere: true },
        ],
        [{ put: key, value }, ...moved],
        [{ get: key }, { get: this.#key('entries', name) }],
      );
      if (isDone) {
        this.#written.set(name, { revision, outline, hosts, atMs: performance.now() });
        return true;
      }
      if (!got[1]) break;
      before = this.#look(name, got[0] ?? null, view);
    }
    this.#written.delete(name);
    return false;
  }

  async views(): Promise<readonly VmView[]> {
    const found = await this.#keys.list(this.#key('views'), { maxValueBytes: VIEW.maxBytes });
    return this.#decodeAll(VIEW, found).map(({ value }) => value);
  }

  async view(name: string): Promise<VmView | null> {
    checkVmName(name);
    const found = await this.#keys.get(this.#key('views', name));
    return found && decode(VIEW, found.value, name, `etcd key ${found.key}`);
  }

  watch(onChange: () => void, scope: WatchScope = {}): () => void {
    this.#open();
    if (scope.host !== undefined) checkHostName(scope.host);
    const prefix = scope.host === undefined ? `${this.#prefix}/` : this.#index(scope.host);
    const ends = new AbortController();
    const hints = new HintTimer(onChange, this.#options.anywayMs ?? ANYWAY_MS);
    const end = (): void => {
      this.#watches.delete(end);
      hints.end();
      ends.abort();
    };
    this.#watches.add(end);
    void this.#keepWatching(prefix, hints, ends.signal);
    return end;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const end of this.#watches) end();
    this.#client.close();
    await this.#registration?.end();
  }

  async #keepWatching(prefix: string, hints: HintTimer, signal: AbortSignal): Promise<void> {
    for (;;) {
      // Set up again, it says so, and what was missed is looked for then.
      await this.#keys.watch(prefix, () => hints.hint(), signal).catch(() => undefined);
      if (signal.aborted) return;
      const pause = new Deferred<void>();
      const timer = setTimeout(() => pause.resolve(), REWATCH_MS).unref();
      signal.addEventListener('abort', () => pause.resolve(), { once: true });
      await pause.promise;
      clearTimeout(timer);
    }
  }

  /** What stands there as if this process had written it; null: it is of a higher epoch. */
  #look(name: string, found: Found | null, mine: VmView): Written | null {
    const atMs = performance.now();
    if (!found) return { revision: '0', outline: '', hosts: new Set(), atMs };
    const there = this.#tryDecode(VIEW, found, name);
    if (there && there.epoch > mine.epoch) return null;
    return { revision: found.revision, outline: '', hosts: hostsOf(null, there), atMs };
  }

  /** The index, when a VM has moved. */
  async #moves(name: string, before: ReadonlySet<string>, after: ReadonlySet<string>): Promise<Op[]> {
    const gone = [...before].filter((host) => !after.has(host));
    const come = [...after].filter((host) => !before.has(host));
    if (gone.length === 0 && come.length === 0) return [];
    const entry = gone.length > 0 ? await this.#keys.get(this.#key('entries', name)) : null;
    const home = entry && this.#tryDecode(ENTRY, entry, name)?.home;
    return [
      ...this.#pokes(come, name),
      ...gone.filter((host) => host !== home).map((host) => ({ remove: this.#key('at', host, name) })),
    ];
  }

  /** The hosts that a VM concerns by what stands there now. */
  async #concerned(name: string): Promise<Set<string>> {
    const keys = [this.#key('entries', name), this.#key('views', name)];
    const [entry, view] = await this.#keys.getMany(keys, ENTRY.maxBytes);
    return hostsOf(
      entry ? this.#tryDecode(ENTRY, entry, name) : null,
      view ? this.#tryDecode(VIEW, view, name) : null,
    );
  }

  #pokes(hosts: Iterable<string>, name: string): Op[] {
    return [...hosts].map((host) => ({ put: this.#key('at', host, name), value: '' }));
  }

  #decodeEntry(name: string, { key, value, revision }: Found): Versioned<VmEntry> {
    return { value: decode(ENTRY, value, name, `etcd key ${key}`), version: revision };
  }

  /** One that cannot be read does not hide the others. */
  #decodeAll<T>(kind: Kind<T>, found: readonly Found[]): Versioned<T>[] {
    return found.flatMap((one) => {
      const value = this.#tryDecode(kind, one);
      return value === null ? [] : [{ value, version: one.revision }];
    });
  }

  #tryDecode<T>(kind: Kind<T>, { key, value }: Found, name = lastOf(key)): T | null {
    try {
      return decode(kind, value, name, `etcd key ${key}`);
    } catch (error) {
      if (!(error instanceof RegistryDataError)) throw error;
      this.#options.onTrouble?.(messageOf(error));
      return null;
    }
  }

  #open(): void {
    if (this.#isClosed) throw new RegistryUnreachableError('registry: closed');
  }

  #key(kind: Folder, ...names: string[]): string {
    return `${this.#prefix}/${kind}/${names.join('/')}`;
  }

  #index(host: string): string {
    return `${this.#key('at', host)}/`;
  }
}

type Folder = 'hosts' | 'alive' | 'maintenance' | 'entries' | 'views' | 'at';

function lastOf(key: string): string {
  return key.slice(key.lastIndexOf('/') + 1);
}

/** `count` of them by chance. */
function sample(names: readonly string[], count: number): readonly string[] {
  if (names.length <= count) return names;
  const pool = [...names];
  for (let at = 0; at < count; at++) {
    const other = at + Math.floor(Math.random() * (pool.length - at));
    [pool[at], pool[other]] = [pool[other]!, pool[at]!];
  }
  return pool.slice(0, count);
}
