/** A VM without a guest (`-machine none`) in this process, from a command line, with its events written down. */
import type { TestContext } from 'node:test';
import { commands } from '../../src/monitor/commands/index.ts';
import { parseCommandLine } from '../../src/vm/command-line/parse.ts';
import { VirtualMachine } from '../../src/vm/machine.ts';

export interface BareVm {
  readonly vm: VirtualMachine;
  readonly events: { readonly event: string; readonly data?: Record<string, unknown> }[];
  /** Executes a command as a monitor would. Rejects with the error whose class and message go out. */
  execute(name: string, args?: unknown): Promise<unknown>;
  /** `Class: description` of a command that has to fail. */
  failure(name: string, args?: unknown): Promise<string>;
}

/** Words are separated by blanks. The VM is closed when the test ends. */
export async function bareVm(t: Pick<TestContext, 'after'>, line = ''): Promise<BareVm> {
  const words = line.split(' ').filter((word) => word !== '');
  const config = parseCommandLine(['-machine', 'none', '-nodefaults', ...words]);
  const vm = await VirtualMachine.create(config, {
    firmware: () => Promise.reject(new Error('no guest, no firmware')),
    warn: () => undefined,
  });
  t.after(() => vm.close());
  await vm.start();
  const events: BareVm['events'] = [];
  vm.events.subscribe((event) => events.push(event));
  const execute = (name: string, args?: unknown): Promise<unknown> => commands.execute(vm, name, args);
  return {
    vm,
    events,
    execute,
    failure: async (name, args) => {
      try {
        await execute(name, args);
      } catch (error) {
        const { qmpClass = 'bug' } = error as { qmpClass?: string };
        return `${qmpClass}: ${(error as Error).message}`;
      }
      throw new Error(`${name} ${JSON.stringify(args)} did not fail`);
    },
  };
}
