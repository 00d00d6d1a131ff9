/** stop, cont, quit and their kin, and what the VM says of itself. */
import { z } from 'zod';
import { askEngine } from '../forwarding.ts';
import { ANNOUNCE_TIMES, requireAnnounceTime } from '../announce-times.ts';
import { command, int64, noArguments } from '../registry.ts';

/** What QEMU answers without -uuid. */
const NO_UUID = '00000000-0000-0000-0000-000000000000';

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
  command('query-kvm', noArguments, (vm) =>
    vm.engine?.monitor ? askEngine(vm, 'query-kvm') : { enabled: false, present: false },
  ),
  command('query-uuid', noArguments, (vm) => ({ UUID: vm.config.uuid ?? NO_UUID })),
  command(
    'announce-self',
    z.strictObject({
      initial: int64,
      max: int64,
      rounds: int64,
      step: int64,
      interfaces: z.array(z.string()).optional(),
      id: z.string().optional(),
    }),
    (vm, { interfaces, id = '', ...times }) => {
      for (const name of ANNOUNCE_TIMES) requireAnnounceTime(name, times[name], name);
      vm.announcer.start(times, id, interfaces ?? null);
    },
  ),
];
