/** stop, cont, quit and their kin, and what the VM says of itself. */
import { z } from 'zod';
import { command, noArguments } from '../registry.ts';

export const runCommands = [
  command('stop', noArguments, (vm) => vm.stop()),
  command('cont', noArguments, (vm) => vm.cont()),
  command('quit', noArguments, (vm) => vm.quit()),
  command('system_reset', noArguments, (vm) => vm.reset()),
  command('system_powerdown', noArguments, (vm) => vm.powerdown()),
  command('query-status', noArguments, (vm) => ({
    status: vm.run.state,
    singlestep: false,
    running: vm.run.isRunning,
  })),
  command('query-name', noArguments, (vm) => (vm.name === null ? {} : { name: vm.name })),
  command('query-kvm', noArguments, () => ({ enabled: false, present: false })),
  command('query-uuid', noArguments, () => ({ UUID: '00000000-0000-0000-0000-000000000000' })),
  command(
    'announce-self',
    z.strictObject({
      initial: z.number().optional(),
      max: z.number().optional(),
      rounds: z.number().optional(),
      step: z.number().optional(),
      interfaces: z.array(z.string()).optional(),
      id: z.string().optional(),
    }),
    (vm) => vm.announce(),
  ),
];
