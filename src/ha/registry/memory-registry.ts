/**
 * A registry in this process's memory: for simulations and tests, and the plainest form of the contract. Several
 * MemoryRegistry on one MemoryRegistryStore are several hosts' clients. A host lives until its client withdraws or closes.
 */
import type { HostView, VmEntry, VmView } from '../views.ts';
import { HintTimer } from './hint-timer.ts';
import {
  RegistryUnreachableError,
  type PutResult,
  type Registry,
  type Versioned,
  type WatchScope,
} from './registry.ts';
import { ENTRY, HOST, VIEW, checkHostName, checkVmName, decode, encode, hostsOf } from './schema.ts';

const ANYWAY_MS = 20_000;

export class MemoryRegistryStore {
  readonly hosts = new Map<string, string>();
  readonly alive = new Map<string, MemoryRegistry>();
  readonly maintenance = new Set<string>();
  readonly entries = new Map<string, { readonly text: string; readonly version: string }>();
  readonly views = new Map<string, string>();
  readonly watchers = new Set<() => void>();
  isReachable = true;
  revision = 0;

  changed(): void {
    this.revision++;
    for (const tell of this.watchers) tell();
  }
}

export class MemoryRegistry implements Registry {
  readonly #store: MemoryRegistryStore;
  readonly #ends = new Set<() => void>();
  #name: string | null = null;
  #isClosed = false;

  constructor(store = new MemoryRegistryStore()) {
    this.#store = store;
  }

  async publish(host: HostView): Promise<void> {
    const text = encode(HOST, host);
    await this.#reach();
    this.#name = host.name;
    this.#store.hosts.set(host.name, text);
    this.#store.alive.set(host.name, this);
    this.#store.changed();
  }

  async withdraw(): Promise<void> {
    await this.#reach();
    this.#leave();
  }

  async forgetHost(name: string): Promise<boolean> {
    checkHostName(name);
    await this.#reach();
    if (this.#store.alive.has(name)) return false;
    this.#store.hosts.delete(name);
    this.#store.maintenance.delete(name);
    this.#store.changed();
    return true;
  }

  async hosts(): Promise<readonly HostView[]> {
    await this.#reach();
    const { hosts, alive, maintenance } = this.#store;
    return [...hosts]
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, text]) => ({
        ...decode(HOST, text, name, `host ${name}`),
        isAlive: alive.has(name),
        isInMaintenance: maintenance.has(name),
      }));
  }

  async someHosts(): Promise<readonly HostView[]> {
    return (await this.hosts()).filter(({ isAlive }) => isAlive);
  }

  async host(name: string): Promise<HostView | null> {
    checkHostName(name);
    return (await this.hosts()).find((host) => host.name === name) ?? null;
  }

  async setMaintenance(host: string, isOn: boolean): Promise<void> {
    checkHostName(host);
    await this.#reach();
    if (isOn) this.#store.maintenance.add(host);
    else this.#store.maintenance.delete(host);
    this.#store.changed();
  }

  async entries(): Promise<readonly Versioned<VmEntry>[]> {
    await this.#reach();
    return [...this.#store.entries.keys()].flatMap((name) => this.#entry(name) ?? []);
  }

  async entriesOf(host: string): Promise<readonly Versioned<VmEntry>[]> {
    checkHostName(host);
    return (await this.entries()).filter(({ value }) =>
      hostsOf(value, this.#view(value.spec.name)).has(host),
    );
  }

  async entry(name: string): Promise<Versioned<VmEntry> | null> {
    checkVmName(name);
    await this.#reach();
    return this.#entry(name);
  }

  async putEntry(entry: VmEntry, expected: string | null): Promise<PutResult> {
    const text = encode(ENTRY, entry);
    await this.#reach();
    const { name } = entry.spec;
    const current = this.#store.entries.get(name);
    if (current && current.text === text) return { isPut: true, version: current.version };
    if ((current?.version ?? null) !== expected) return { isPut: false, current: this.#entry(name) };
    this.#store.changed();
    const version = String(this.#store.revision);
    this.#store.entries.set(name, { text, version });
    return { isPut: true, version };
  }

  async removeEntry(name: string, expected: string): Promise<boolean> {
    checkVmName(name);
    await this.#reach();
    const current = this.#store.entries.get(name);
    if (current && current.version !== expected) return false;
    this.#store.entries.delete(name);
    this.#store.views.delete(name);
    this.#store.changed();
    return true;
  }

  async publishVm(view: VmView): Promise<boolean> {
    const text = encode(VIEW, view);
    await this.#reach();
    if (!this.#store.entries.has(view.name)) return false;
    if ((this.#view(view.name)?.epoch ?? 0) > view.epoch) return false;
    this.#store.views.set(view.name, text);
    this.#store.changed();
    return true;
  }

  async views(): Promise<readonly VmView[]> {
    await this.#reach();
    return [...this.#store.views.keys()].flatMap((name) => this.#view(name) ?? []);
  }

  async view(name: string): Promise<VmView | null> {
    checkVmName(name);
    await this.#reach();
    return this.#view(name);
  }

  watch(onChange: () => void, scope: WatchScope = {}): () => void {
    if (scope.host !== undefined) checkHostName(scope.host);
    const hints = new HintTimer(onChange, ANYWAY_MS);
    const tell = (): void => hints.hint();
    this.#store.watchers.add(tell);
    const end = (): void => {
      this.#store.watchers.delete(tell);
      this.#ends.delete(end);
      hints.end();
    };
    this.#ends.add(end);
    tell();
    return end;
  }

  close(): Promise<void> {
    if (!this.#isClosed) this.#leave();
    this.#isClosed = true;
    for (const end of this.#ends) end();
    return Promise.resolve();
  }

  #leave(): void {
    if (this.#name === null || this.#store.alive.get(this.#name) !== this) return;
    this.#store.alive.delete(this.#name);
    this.#store.changed();
  }

  #entry(name: string): Versioned<VmEntry> | null {
    const found = this.#store.entries.get(name);
    return found ? { value: decode(ENTRY, found.text, name, `entry ${name}`), version: found.version } : null;
  }

  #view(name: string): VmView | null {
    const text = this.#store.views.get(name);
    return text === undefined ? null : decode(VIEW, text, name, `view ${name}`);
  }

  async #reach(): Promise<void> {
    await Promise.resolve();
    if (this.#isClosed) throw new RegistryUnreachableError('registry: closed');
    if (!this.#store.isReachable) throw new RegistryUnreachableError('registry in memory: switched off');
  }
}
