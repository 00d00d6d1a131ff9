/**
 * Commands that an engine with a monitor of its own has, and of which a part is ours. Without such an engine they are
 * not found, as any that nobody knows.
 */
import { z } from 'zod';
import { CommandNotFoundError } from '../../base/errors.ts';
import type { VirtualMachine } from '../../vm/machine.ts';
import { askEngine } from '../forwarding.ts';
import { command, noArguments } from '../registry.ts';
import { mergedSchema } from '../schema.ts';
import { commands } from './index.ts';

const setAction = z.strictObject({
  reboot: z.enum(['reset', 'shutdown']).optional(),
  shutdown: z.enum(['poweroff', 'pause']).optional(),
  panic: z.enum(['pause', 'shutdown', 'exit-failure', 'none']).optional(),
  watchdog: z.enum(['reset', 'shutdown', 'poweroff', 'pause', 'debug', 'none', 'inject-nmi']).optional(),
});

interface VncInfo {
  readonly enabled: boolean;
  readonly id?: string;
  readonly auth?: string;
}

export const engineCommands = [
  /** What ends the VM is decided here: the engine's process always stays (`shutdown=pause`). */
  command('set-action', setAction, async (vm, { shutdown, ...others }) => {
    mustHaveMonitor(vm, 'set-action');
    if (Object.keys(others).length > 0) await askEngine(vm, 'set-action', others);
    const { config } = vm;
    if (shutdown !== undefined) config.noShutdown = shutdown === 'pause';
    if (others.reboot !== undefined) config.noReboot = others.reboot === 'shutdown';
    if (others.panic !== undefined) config.panicAction = others.panic;
  }),
  /** The engine's, without what is refused and with what is ours alone. */
  command('query-qmp-schema', noArguments, async (vm) => {
    mustHaveMonitor(vm, 'query-qmp-schema');
    return mergedSchema(await askEngine(vm, 'query-qmp-schema'), commands);
  }),
  command('query-vnc', noArguments, async (vm) => {
    mustHaveMonitor(vm, 'query-vnc');
    const info = (await askEngine(vm, 'query-vnc')) as VncInfo;
    const { vnc } = vm;
    if (!vnc?.server) return { enabled: info.enabled, clients: [] };
    const { host, service, family } = vnc.server;
    return { ...info, host, service, family, clients: vnc.clients };
  }),
  command('query-vnc-servers', noArguments, async (vm) => {
    mustHaveMonitor(vm, 'query-vnc-servers');
    const servers = (await askEngine(vm, 'query-vnc-servers')) as (VncInfo & { server: object[] })[];
    const { vnc } = vm;
    return servers.map((info) => ({
      ...info,
      server: vnc?.server ? info.server.map((one) => ({ ...one, ...vnc.server })) : [],
      clients: vnc?.clients ?? [],
    }));
  }),
];

function mustHaveMonitor(vm: VirtualMachine, name: string): void {
  if (!vm.engine?.monitor) throw new CommandNotFoundError(`The command ${name} has not been found`);
}
