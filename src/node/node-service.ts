/**
 * What this host's daemon can be asked (api/service.ts): by people, about any VM as far as this host can do it, and by the
 * daemons of other hosts, about their copies' other halves.
 */
import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { ColoError, messageOf } from '../base/errors.ts';
import type {
  CallOptions,
  Copy,
  CopyReport,
  EventQuery,
  Health,
  JoinAnswer,
  JoinRequest,
  NodeService,
  PeerService,
} from '../api/service.ts';
import { BusyError, NoSuchHostError, NoSuchVmError } from '../ha/errors.ts';
import {
  VIEW_VERSION,
  type Finding,
  type HaEvent,
  type HostView,
  type RunningVm,
  type VmEntry,
  type VmView,
} from '../ha/index.ts';
import { chooseHome } from '../ha/placement.ts';
import { checkCluster, type HostAnswer, type SilentHost } from '../ha/spec/check.ts';
import type { HostFacts } from '../ha/spec/facts.ts';
import { displayOf, type VmSpec } from '../ha/spec/vm-spec.ts';
import type { Controller } from './controller.ts';
import { openConsole, openScreen } from './copy-streams.ts';
import type { Daemon } from './daemon.ts';
import { tail } from './tail.ts';
import { REMOVED } from './wishes.ts';

/** Tries of a change that others make at the same time. */
const PUT_TRIES = 8;
const LOOK_MS = 100;
/** For a copy that was joining to find out that nobody means it any more. */
const LEAVING_MS = 20_000;

export class NodeServices implements NodeService, PeerService {
  readonly #daemon: Daemon;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  // For people.

  health(): Promise<Health> {
    return Promise.resolve(this.#daemon.health());
  }

  hosts(): Promise<readonly HostView[]> {
    return this.#daemon.registry.hosts();
  }

  async vms(): Promise<readonly VmView[]> {
    const { registry } = this.#daemon;
    const [entries, views, hosts] = await Promise.all([
      registry.entries(),
      registry.views(),
      registry.hosts(),
    ]);
    const alive = new Set(hosts.filter(({ isAlive }) => isAlive).map(({ name }) => name));
    const told = new Map(views.map((view) => [view.name, view]));
    return entries.map(({ value }) => this.#seen(value, told.get(value.spec.name) ?? null, alive));
  }

  async vm(name: string): Promise<VmView> {
    const { registry } = this.#daemon;
    const entry = await this.#entry(name);
    const own = this.#daemon.controller(name);
    if (own && !own.isIdle && own.side.phase !== 'secondary' && own.side.phase !== 'joining') {
      return { ...own.view(), isWanted: entry.isWanted, isPaused: entry.isPaused };
    }
    const [view, hosts] = await Promise.all([registry.view(name), registry.hosts()]);
    return this.#seen(entry, view, new Set(hosts.filter(({ isAlive }) => isAlive).map((host) => host.name)));
  }

  async spec(name: string): Promise<VmSpec> {
    return (await this.#entry(name)).spec;
  }

  async check(spec: VmSpec): Promise<readonly Finding[]> {
    const { registry, config } = this.#daemon;
    const [hosts, entry] = await Promise.all([registry.hosts(), registry.entry(spec.name)]);
    const may = (name: string): boolean => spec.hosts.length === 0 || spec.hosts.includes(name);
    const answers: HostAnswer[] = [];
    const silent: SilentHost[] = spec.hosts
      .filter((name) => !hosts.some((host) => host.name === name))
      .map((host) => ({ host, reason: 'no node of that name has ever registered' }));
    const ask = async ({ name, isAlive }: HostView): Promise<void> => {
      if (!isAlive) {
        silent.push({ host: name, reason: 'its node is not heard of' });
        return;
      }
      const askedMs = Date.now();
      try {
        const facts = await (name === config.name ? this.facts(spec) : this.#daemon.peer(name).facts(spec));
        answers.push({ facts, askedMs, answeredMs: Date.now() });
      } catch (error) {
        silent.push({ host: name, reason: messageOf(error) });
      }
    };
    await Promise.all(hosts.filter(({ name }) => may(name)).map(ask));
    const home = entry?.value.home ?? chooseHome(spec, hosts).host ?? '';
    return checkCluster(spec, { answers, silent, home });
  }

  async up(spec: VmSpec): Promise<VmView> {
    const { registry } = this.#daemon;
    const hosts = await registry.hosts();
    // One that has not come up yet may be named; that none is there is a mistake.
    const [first] = spec.hosts;
    if (first !== undefined && !hosts.some(({ name }) => spec.hosts.includes(name)))
      throw new NoSuchHostError(first);
    await this.#put(spec.name, (entry) => {
      if (entry) return { ...entry, spec, isWanted: true };
      const { host, why } = chooseHome(spec, hosts);
      if (host === null) throw new ColoError(`no host can carry '${spec.name}': ${why.join('; ')}`);
      return { version: VIEW_VERSION, spec, isWanted: true, isPaused: false, home: host };
    });
    await this.#daemon.look();
    return this.vm(spec.name);
  }

  async down(name: string, { purge }: { readonly purge: boolean }, call?: CallOptions): Promise<VmView> {
    await this.#put(name, (entry) => {
      if (!entry) throw new NoSuchVmError(name);
      return { ...entry, isWanted: false };
    });
    void this.#daemon.look();
    const view = await this.#until(name, ({ state }) => state === 'down', call?.signal);
    if (purge) await this.#purge(name);
    return view;
  }

  /** Disks on every host that can be reached, then the entry. The arbiter's record stays, and says that there are none. */
  async #purge(name: string): Promise<void> {
    const { registry, arbiter, config } = this.#daemon;
    const hosts = await registry.hosts();
    const record = await arbiter.read(name);
    const failed: string[] = [];
    for (const host of hosts) {
      try {
        if (host.name === config.name) await whenIdle(() => this.purge(name));
        else if (host.isAlive) await whenIdle(() => this.#daemon.peer(host.name).purge(name));
        else if (record?.members.includes(host.name) === true) failed.push(`${host.name} is not heard of`);
      } catch (error) {
        failed.push(`${host.name}: ${messageOf(error)}`);
      }
    }
    if (failed.length > 0)
      throw new ColoError(`'${name}' is down, but not all of its disks are gone: ${failed.join('; ')}`);
    if (record) {
      const nonce = `${config.name}.removed.${randomUUID()}`;
      await arbiter.swap(name, record, {
        nonce,
        holder: null,
        members: record.members,
        data: { [REMOVED]: 'yes' },
      });
    }
    const entry = await registry.entry(name);
    if (entry) await registry.removeEntry(name, entry.version);
  }

  async checkpoint(name: string): Promise<VmView> {
    await this.#primary(name).checkpoint();
    return this.vm(name);
  }

  async failover(name: string, call?: CallOptions): Promise<VmView> {
    const controller = this.#primary(name);
    const before = controller.side.peer;
    await controller.stepAside();
    return this.#until(name, ({ primary }) => primary === before, call?.signal);
  }

  async migrate(name: string, host: string, call?: CallOptions): Promise<VmView> {
    const controller = this.#primary(name);
    const known = (await this.#daemon.registry.hosts()).find((one) => one.name === host);
    if (!known) throw new NoSuchHostError(host);
    if (!known.isAlive) throw new ColoError(`host '${host}' is not alive`);
    if (host === this.#daemon.config.name) return this.vm(name);
    if (controller.side.phase !== 'primary' || controller.side.peer !== host)
      await controller.protectBy(host);
    await controller.stepAside();
    return this.#until(name, ({ primary }) => primary === host, call?.signal);
  }

  async setPaused(name: string, isPaused: boolean): Promise<VmView> {
    await this.#put(name, (entry) => {
      if (!entry) throw new NoSuchVmError(name);
      return { ...entry, isPaused };
    });
    void this.#daemon.look();
    return this.vm(name);
  }

  async setMaintenance(
    host: string,
    isOn: boolean,
    { drain }: { readonly drain: boolean },
    call?: CallOptions,
  ): Promise<HostView> {
    const { registry } = this.#daemon;
    if ((await registry.host(host)) === null) throw new NoSuchHostError(host);
    await registry.setMaintenance(host, isOn);
    await this.#daemon.look();
    if (isOn && drain && host === this.#daemon.config.name) {
      await this.#drain(call?.signal);
      // The registry tells what this host has told.
      await this.#daemon.look();
    }
    const view = await registry.host(host);
    if (!view) throw new NoSuchHostError(host);
    return view;
  }

  events(query: EventQuery): AsyncIterable<HaEvent> {
    return this.#daemon.events.read(query);
  }

  async *logs(
    name: string,
    options: { readonly lines: number; readonly follow: boolean; readonly signal?: AbortSignal },
  ): AsyncIterable<string> {
    await this.#entry(name);
    yield* tail(this.#daemon.logFile(name), options);
  }

  async console(name: string, copy?: Copy): Promise<Duplex> {
    const { vm, controller } = await this.#copy(name, copy);
    return openConsole(vm, () => controller.copy === 'primary');
  }

  async screen(name: string, copy?: Copy): Promise<Duplex> {
    const { vm, controller } = await this.#copy(name, copy);
    if (displayOf(controller.spec) === 'none')
      throw new ColoError(`'${name}' has no screen (display: none): look at its console`);
    return openScreen(vm);
  }

  async qmp(name: string, command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const { vm } = this.#primary(name);
    if (!vm) throw new ColoError(`'${name}' does not run on ${this.#daemon.config.name}`);
    return vm.qmp.execute(command, args);
  }

  // For forward.ts.

  async locate(name: string, copy: Copy = 'primary'): Promise<string | null> {
    const own = this.#daemon.controller(name);
    const isHere = own !== null && !own.isIdle;
    if (isHere && own.copy === copy) return null;
    // It knows of its other half before the registry does, and after.
    const { peer } = own?.side ?? { peer: null };
    if (isHere && (peer !== null || copy === 'secondary'))
      return peer === null ? null : this.locateHost(peer);
    const view = await this.#daemon.registry.view(name);
    const host = view?.[copy] ?? null;
    return host === null ? null : this.locateHost(host);
  }

  async locateHost(host: string): Promise<string | null> {
    if (host === this.#daemon.config.name) return null;
    const heard = this.#daemon.addressOfHeard(host);
    if (heard !== null) return heard;
    const view = await this.#daemon.registry.host(host);
    return view?.isAlive === true ? view.api : null;
  }

  // For the daemons of other hosts.

  copy(name: string): Promise<CopyReport> {
    const controller = this.#daemon.controller(name);
    if (controller) return Promise.resolve(controller.report());
    const nothing = { phase: 'idle', known: null, isProcessAlive: false, disks: 'none' } as const;
    return Promise.resolve({ host: this.#daemon.config.name, ...nothing });
  }

  async join(request: JoinRequest): Promise<JoinAnswer> {
    return (await this.#daemon.controllerFor(request.spec)).join(request);
  }

  awaitCheckpoint(name: string, pairing: { readonly epoch: number; readonly nonce: string }): Promise<void> {
    return this.#here(name).awaitCheckpoint(pairing);
  }

  takeOver(name: string): Promise<void> {
    return this.#here(name).takeOver();
  }

  purge(name: string): Promise<void> {
    return this.#daemon.forget(name);
  }

  facts(spec: VmSpec): Promise<HostFacts> {
    return this.#daemon.facts(spec);
  }

  async leave(name: string, reason: string): Promise<void> {
    await this.#daemon.controller(name)?.leave(reason);
  }

  /** The copy that runs here, if it is the one that is asked for. */
  async #copy(
    name: string,
    copy: Copy | undefined,
  ): Promise<{ readonly vm: RunningVm; readonly controller: Controller }> {
    const controller = this.#daemon.controller(name);
    const vm = controller?.vm;
    if (controller && vm && (copy ?? controller.copy) === controller.copy) return { vm, controller };
    await this.#entry(name);
    const { name: host } = this.#daemon.config;
    if (copy === 'secondary')
      throw new ColoError(`'${name}' has no secondary at the moment that ${host} knows of: see colo status`);
    throw new ColoError(
      controller && vm
        ? `'${name}' follows another on ${host}: ask for copy=secondary`
        : `'${name}' does not run on ${host}`,
    );
  }

  #here(name: string): Controller {
    const controller = this.#daemon.controller(name);
    if (!controller) throw new NoSuchVmError(name);
    return controller;
  }

  /** Throws ColoError when the primary is on another host, which nobody has heard of: the call would have been sent there. */
  #primary(name: string): Controller {
    const controller = this.#here(name);
    const { peer } = controller.side;
    if (controller.isIdle || controller.copy === 'primary' || peer === null) return controller;
    throw new ColoError(
      `'${name}' follows ${peer} on ${this.#daemon.config.name}, and ${peer} is not heard of: wait for the failover (colo status), then ask again`,
    );
  }

  async #entry(name: string): Promise<VmEntry> {
    const found = await this.#daemon.registry.entry(name);
    if (!found) throw new NoSuchVmError(name);
    return found.value;
  }

  async #put(name: string, change: (entry: VmEntry | null) => VmEntry): Promise<void> {
    const { registry } = this.#daemon;
    for (let tries = 0; tries < PUT_TRIES; tries++) {
      const found = await registry.entry(name);
      const { isPut } = await registry.putEntry(change(found?.value ?? null), found?.version ?? null);
      if (isPut) return;
    }
    throw new ColoError(`'${name}' is being changed by others again and again: try once more`);
  }

  /** What its holder told, and what has become of the holder. */
  #seen(entry: VmEntry, view: VmView | null, alive: ReadonlySet<string>): VmView {
    const { spec, isWanted, isPaused } = entry;
    if (!view) {
      return {
        version: VIEW_VERSION,
        name: spec.name,
        state: 'down',
        reason: isWanted ? `waits for ${entry.home} to start it` : 'not started',
        sinceMs: 0,
        epoch: 0,
        primary: null,
        secondary: null,
        copies: [],
        isWanted,
        isPaused,
        memoryMiB: spec.memoryMiB,
        engine: spec.engine,
      };
    }
    const speaker = speakerOf(view);
    if (speaker === null || alive.has(speaker)) return { ...view, isWanted, isPaused };
    // Nobody is left who could say that it has stopped.
    if (!isWanted) return { ...view, isWanted, isPaused, state: 'down', primary: null, secondary: null };
    const reason = `${speaker} was the last to speak for it and is not heard of any more`;
    return { ...view, isWanted, isPaused, state: 'dissolving', reason };
  }

  async #until(name: string, isSo: (view: VmView) => boolean, signal?: AbortSignal): Promise<VmView> {
    for (;;) {
      const view = await this.vm(name);
      if (isSo(view)) return view;
      signal?.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  /** Primaries step aside, once they are protected; secondaries are moved by their primaries' hosts. */
  async #drain(signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      const busy = this.#daemon.controllers().filter(({ isIdle }) => !isIdle);
      if (busy.length === 0) return;
      for (const controller of busy) {
        if (controller.side.phase === 'primary') await controller.stepAside().catch(() => undefined);
      }
      signal?.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }
}

/** Again while it is refused because a copy is on its way out. Throws what `act` throws. */
async function whenIdle(act: () => Promise<void>): Promise<void> {
  const deadline = performance.now() + LEAVING_MS;
  for (;;) {
    try {
      await act();
      return;
    } catch (error) {
      if (!(error instanceof BusyError) || performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }
}

/** Whose host says what becomes of it: that of the primary, or of the process that is to be one; null: nobody's. */
function speakerOf({ primary, state, copies }: VmView): string | null {
  return primary ?? (state === 'starting' ? (copies[0]?.host ?? null) : null);
}
