/**
 * The monitors of one VM: every `-qmp` option becomes an endpoint of one server, and the VM's events reach all. Clients
 * are many at once on a socket, one on standard input and output. No command runs out of band: none of ours takes long
 * enough to be overtaken (QEMU's are migrate-recover and the like), so `exec-oob` is refused by name.
 */
import { ParameterError, messageOf } from '../base/errors.ts';
import { parseSocketChardev } from '../chardev/options.ts';
import type { SocketChardevConfig } from '../chardev/socket.ts';
import { QmpServer } from '../qmp/server.ts';
import type { QmpAddress } from '../qmp/server.ts';
import type { StreamTarget } from '../vm/command-line/config.ts';
import { originOf } from '../vm/command-line/origin.ts';
import type { VirtualMachine } from '../vm/machine.ts';
import { commands } from './commands/index.ts';
import { forwardedOutOfBand } from './forwarding.ts';
import { versionOf } from './version.ts';

export interface MonitorHost {
  /** Start-up stands still until a client connects. */
  waiting?(text: string): void;
  /** Breaks that wait off. */
  readonly signal?: AbortSignal;
}

/** Opens them. Throws ParameterError naming the option, or ClosedError when `host.signal` is aborted. */
export async function startMonitors(
  vm: VirtualMachine,
  host: MonitorHost = {},
): Promise<{ close(): Promise<void> }> {
  const server = new QmpServer({
    version: versionOf(vm),
    dispatch: (name, args) => commands.execute(vm, name, args),
    supportsOob: (name) => (commands.has(name) ? false : forwardedOutOfBand(vm, name)),
  });
  const unsubscribe = vm.events.subscribe(({ event, data, timestamp }) => {
    server.broadcast(event, data, timestamp);
  });
  try {
    for (const target of vm.config.qmp) await openMonitor(server, target, host);
  } catch (error) {
    unsubscribe();
    await server.close();
    throw error;
  }
  return {
    close: async () => {
      unsubscribe();
      await server.close();
    },
  };
}

async function openMonitor(server: QmpServer, target: StreamTarget, host: MonitorHost): Promise<void> {
  if (target.type === 'none') return;
  if (target.type === 'stdio') {
    server.serve(process.stdin, process.stdout);
    return;
  }
  const origin = originOf(target, '-qmp');
  try {
    if (target.type !== 'socket') throw new ParameterError(`a monitor cannot be on '${target.type}'`);
    const config = parseSocketChardev({ ...target.options, id: 'monitor', backend: 'socket' });
    if (config.tlsCreds !== undefined) {
      throw new ParameterError("'tls-creds' is not supported on a monitor; give it a unix socket");
    }
    const address = addressOf(config);
    if (!config.server) {
      if (config.reconnectMs > 0) throw new ParameterError("'reconnect' is not supported on a monitor");
      await server.dial(address);
      return;
    }
    await server.listen(address);
    // As in QEMU a listening monitor waits for its client unless told not to.
    if (!config.wait) return;
    host.waiting?.(`${origin}: info: waiting for connection`);
    await server.waitConnected(host.signal);
  } catch (cause) {
    throw new ParameterError(`${origin}: ${messageOf(cause)}`, { cause });
  }
}

function addressOf({ address }: SocketChardevConfig): QmpAddress {
  if (address.type === 'unix') return { path: address.path };
  const { host, port } = address;
  const number = /^\d{1,6}$/.test(port) ? Number(port) : NaN;
  if (Number.isNaN(number)) {
    throw new ParameterError(
      `address resolution failed for ${host}:${port}: Servname not supported for ai_socktype`,
    );
  }
  if (number > 65535) throw new ParameterError(`Parameter 'port' expects a port number, not '${port}'`);
  return { host: host === '' ? '127.0.0.1' : host, port: number };
}
