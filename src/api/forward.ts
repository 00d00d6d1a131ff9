/**
 * Any host may be asked about any VM: a call for one whose primary is elsewhere is sent on to that host's API, once (the
 * other end does it itself or says no). Where a VM is, is for `locate` to know; calls that are not about one VM, or about
 * one that is nowhere, stay here.
 */
import { NodeUnreachableError } from './errors.ts';
import type { Copy, EventQuery, NodeService } from './service.ts';

export interface Forwarding {
  /** This host's own. */
  readonly local: NodeService;
  /**
   * Address (`HOST:PORT`) of the host that can do something about the VM, or that has that copy of it (default: the
   * primary); null: this one, or nobody.
   */
  readonly locate: (vm: string, copy?: Copy) => Promise<string | null>;
  /** The same for a host by its name; default: maintenance of every host is this host's to set. */
  readonly locateHost?: (host: string) => Promise<string | null>;
  /** One that marks its calls as sent on. It stays its giver's: the next call to that address has it again. */
  readonly clientAt: (address: string) => NodeService;
}

export function forwarding({ local, locate, locateHost, clientAt }: Forwarding): NodeService {
  const at = async <T>(
    address: string | null,
    what: string,
    call: (node: NodeService) => Promise<T>,
  ): Promise<T> => {
    if (address === null) return call(local);
    try {
      return await call(clientAt(address));
    } catch (error) {
      throw told(error, what, address);
    }
  };
  const vm = async <T>(name: string, call: (node: NodeService) => Promise<T>): Promise<T> =>
    at(await locate(name), `VM '${name}'`, call);
  return {
    health: () => local.health(),
    hosts: () => local.hosts(),
    vms: () => local.vms(),
    check: (spec) => local.check(spec),
    events: (query: EventQuery) => local.events(query),
    // Asked of the registry alone; whoever spoke for the VM last may be dead.
    up: (spec) => local.up(spec),
    vm: (name) => vm(name, (node) => node.vm(name)),
    spec: (name) => vm(name, (node) => node.spec(name)),
    down: (name, options, call) => vm(name, (node) => node.down(name, options, call)),
    checkpoint: (name, call) => vm(name, (node) => node.checkpoint(name, call)),
    failover: (name, call) => vm(name, (node) => node.failover(name, call)),
    migrate: (name, host, call) => vm(name, (node) => node.migrate(name, host, call)),
    setPaused: (name, isPaused) => vm(name, (node) => node.setPaused(name, isPaused)),
    qmp: (name, command, args) => vm(name, (node) => node.qmp(name, command, args)),
    console: async (name, copy) =>
      at(await locate(name, copy), `VM '${name}'`, (node) => node.console(name, copy)),
    screen: async (name, copy) =>
      at(await locate(name, copy), `VM '${name}'`, (node) => node.screen(name, copy)),
    setMaintenance: async (host, isOn, options, call) =>
      at((await locateHost?.(host)) ?? null, `host '${host}'`, (node) =>
        node.setMaintenance(host, isOn, options, call),
      ),
    logs: async function* (name, options) {
      const address = await locate(name);
      if (address === null) {
        yield* local.logs(name, options);
        return;
      }
      try {
        yield* clientAt(address).logs(name, options);
      } catch (error) {
        throw told(error, `VM '${name}'`, address);
      }
    },
  };
}

function told(error: unknown, what: string, address: string): unknown {
  if (!(error instanceof NodeUnreachableError)) return error;
  return new NodeUnreachableError(
    `${what} is looked after at ${address}, and no node answers there: wait for the failover (colo status), then ask again`,
    { cause: error },
  );
}
