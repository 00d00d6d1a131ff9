/**
 * A host's daemon as what the dashboard shows (dashboard/source.ts). It asks the service that sends calls on, so that any
 * host's page shows any VM of the cluster. Events are those of all hosts (all-events.ts); what may be asked for, and what
 * there is to look at, follows from a VM's view.
 */
import type { Duplex } from 'node:stream';
import type { EventQuery, NodeService } from '../api/service.ts';
import { ColoError, ParameterError } from '../base/errors.ts';
import type { Action, Copy, ScreenView, VmPicture } from '../dashboard/protocol.ts';
import type { AskPrimary, DashboardSource } from '../dashboard/source.ts';
import type { HaEvent, HostView, VmState, VmView } from '../ha/views.ts';
import { allEvents, type EventHost } from './all-events.ts';

/** Nothing is under way that an action would disturb. */
const MOVABLE: ReadonlySet<VmState> = new Set(['protected', 'suspect', 'unprotected', 'backing-off']);

export interface NodeSourceOptions {
  readonly software: string;
  readonly host: string;
  /** The hosts whose events are told: those that live, this one first. */
  readonly eventHosts: () => Promise<readonly EventHost[]>;
}

export class NodeSource implements DashboardSource {
  readonly kind = 'node';
  readonly software: string;
  readonly host: string;
  readonly #node: NodeService;

  readonly #eventHosts: () => Promise<readonly EventHost[]>;

  constructor(node: NodeService, { software, host, eventHosts }: NodeSourceOptions) {
    this.#node = node;
    this.#eventHosts = eventHosts;
    this.software = software;
    this.host = host;
  }

  hosts(): Promise<readonly HostView[]> {
    return this.#node.hosts();
  }

  async vms(): Promise<readonly VmPicture[]> {
    const [vms, hosts] = await Promise.all([this.#node.vms(), this.#node.hosts()]);
    return vms.map((vm) => pictureOf(vm, hosts));
  }

  /** Of all hosts, which number their own: `after` means nothing here. */
  events({ signal }: EventQuery): AsyncIterable<HaEvent> {
    return allEvents(this.#eventHosts, signal ?? new AbortController().signal);
  }

  async primary(vm: string): Promise<AskPrimary> {
    const { primary, state, reason } = await this.#node.vm(vm);
    if (primary === null) throw new ColoError(`'${vm}' is ${state}: ${reason}`);
    return (command, args) => this.#node.qmp(vm, command, args);
  }

  async act(
    vm: string,
    action: Action,
    { host, signal }: { readonly host?: string; readonly signal: AbortSignal },
  ): Promise<string> {
    switch (action) {
      case 'checkpoint':
        await this.#node.checkpoint(vm, { signal });
        return `${vm}: a checkpoint has been taken`;
      case 'failover':
        return `${vm}: ${runningOn(await this.#node.failover(vm, { signal }))}`;
      case 'migrate':
        if (host === undefined) throw new ParameterError(`name the host that '${vm}' is to be moved to`);
        return `${vm}: ${runningOn(await this.#node.migrate(vm, host, { signal }))}`;
      case 'pause':
        await this.#node.setPaused(vm, true);
        return `${vm}: automatic actions are suspended`;
      case 'resume':
        await this.#node.setPaused(vm, false);
        return `${vm}: automatic actions are taken up again`;
      case 'kill-primary':
      case 'kill-secondary':
      case 'freeze-primary':
      case 'cut-link':
        throw new ParameterError(`'${action}' is for colo demo: a node harms nobody`);
    }
  }

  console(vm: string, copy: Copy): Promise<Duplex> {
    return this.#node.console(vm, copy);
  }

  screen(vm: string, copy: Copy): Promise<Duplex> {
    return this.#node.screen(vm, copy);
  }
}

export function pictureOf(vm: VmView, hosts: readonly HostView[]): VmPicture {
  return {
    ...vm,
    actions: actionsOf(vm, hosts),
    screens: { primary: screenOf(vm, vm.primary), secondary: screenOf(vm, vm.secondary) },
  };
}

function actionsOf(vm: VmView, hosts: readonly HostView[]): Action[] {
  const { state, primary, secondary, isWanted, isPaused } = vm;
  const isPair = state === 'protected' && primary !== null && secondary !== null;
  const elsewhere = hosts.some(
    ({ name, isAlive, isInMaintenance }) => isAlive && !isInMaintenance && name !== primary,
  );
  return [
    ...(isPair ? (['checkpoint', 'failover'] as const) : []),
    ...(isWanted && primary !== null && MOVABLE.has(state) && elsewhere ? (['migrate'] as const) : []),
    ...(isWanted ? [isPaused ? ('resume' as const) : ('pause' as const)] : []),
  ];
}

/** Of a copy that runs on that host. */
function screenOf({ state, display }: VmView, host: string | null): ScreenView {
  const isThere = host !== null && state !== 'down' && state !== 'starting';
  return { serial: isThere, vnc: isThere && display === 'vnc' };
}

function runningOn({ primary, state }: VmView): string {
  return `runs on ${primary ?? 'no host'}, ${state}`;
}
