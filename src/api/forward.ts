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
  /** A client that marks its calls as sent on. */
  readonly connect: (address: string) => NodeService & { close(): Promise<void> };
}

export function forwarding({ local, locate, locateHost, connect }: Forwarding): NodeService {
  const at = async <T>(
    address: string | null,
    what: string,
    call: (node: NodeService) => Promise<T>,
    isOpenAfterwards = false,
  ): Promise<T> => {
    if (address === null) return call(local);
    const node = connect(address);
    try {
      return await call(node);
    } catch (error) {
      throw told(error, what, address);
    } finally {
      // A console has a connection of its own.
      if (!isOpenAfterwards) await node.close();
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
      at(await locate(name, copy), `VM '${name}'`, (node) => node.console(name, copy), true),
    screen: async (name, copy) =>
      at(await locate(name, copy), `VM '${name}'`, (node) => node.screen(name, copy), true),
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
      const node = connect(address);
      try {
        yield* node.logs(name, options);
      } catch (error) {
        throw told(error, `VM '${name}'`, address);
      } finally {
        await node.close();
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
