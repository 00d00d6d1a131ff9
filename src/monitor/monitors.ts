/** The monitors of one VM: every `-qmp` option becomes an endpoint of one server, and the VM's events reach all. */
import { ParameterError, messageOf } from '../base/errors.ts';
import { QmpServer } from '../qmp/server.ts';
import type { QmpAddress } from '../qmp/server.ts';
import type { StreamTarget } from '../vm/command-line/config.ts';
import type { Options } from '../vm/command-line/keyval.ts';
import type { VirtualMachine } from '../vm/machine.ts';
import { commands } from './commands/index.ts';
import { QEMU_VERSION } from './version.ts';

/** Opens them. Throws ParameterError or ColoError naming the option. */
export async function startMonitors(vm: VirtualMachine): Promise<{ close(): Promise<void> }> {
  const server = new QmpServer({
    version: QEMU_VERSION,
    dispatch: (name, args) => commands.execute(vm, name, args),
  });
  const unsubscribe = vm.events.subscribe(({ event, data, timestamp }) => {
    server.broadcast(event, data, timestamp);
  });
  try {
    for (const target of vm.config.qmp) await openMonitor(server, target);
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

async function openMonitor(server: QmpServer, target: StreamTarget): Promise<void> {
  if (target.type === 'none') return;
  if (target.type === 'stdio') {
    server.serve(process.stdin, process.stdout);
    return;
  }
  if (target.type === 'chardev') throw new ParameterError(`chardev "${target.id}" not found`);
  const { options } = target;
  const address = addressOf(options);
  try {
    if (options['server'] !== 'on') await server.dial(address);
    else {
      await server.listen(address);
      // As in QEMU a listening monitor waits for its client unless told not to.
      if (options['wait'] !== 'off') await server.waitConnected();
    }
  } catch (cause) {
    throw new ParameterError(
      `-qmp ${options['path'] ?? `${options['host']!}:${options['port']!}`}: ${messageOf(cause)}`,
      {
        cause,
      },
    );
  }
}

function addressOf(options: Options): QmpAddress {
  const { path, host, port } = options;
  if (path !== undefined) return { path };
  const number = Number(port);
  if (!Number.isInteger(number) || number < 0 || number > 65535) {
    throw new ParameterError(`-qmp: Parameter 'port' expects a port number, not '${port ?? ''}'`);
  }
  return { host: host ?? '127.0.0.1', port: number };
}
