/** What changes something: `down`, `checkpoint`, `failover`, `migrate`, `pause`, `resume`, `drain`, `undrain`. */
import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import type { NodeClient } from '../../api/http-client.ts';
import { ParameterError } from '../../base/errors.ts';
import type { HostView, VmView } from '../../ha/views.ts';
import { askNode, nodeCommand, printJson, printLine, type NodeOptions } from './connection.ts';
import { printable } from './text.ts';
import { withResyncBar } from './waiting.ts';

interface DownOptions extends NodeOptions {
  readonly purge?: boolean;
  readonly yes?: boolean;
}

interface PauseOptions extends NodeOptions {
  readonly host?: string;
}

export function registerActions(program: Command): void {
  nodeCommand(program, 'down <vm>', 'stop a VM; its disks stay')
    .option('--purge', 'delete its disks on every host, and forget it')
    .option('-y, --yes', 'do not ask before --purge')
    .action(async (vm: string, options: DownOptions) => {
      await onVm('down', options, async (node) => {
        if (options.purge) await confirmPurge(vm, options.yes ?? false);
        return node.down(vm, { purge: options.purge ?? false });
      });
    });
  nodeCommand(program, 'checkpoint <vm>', 'take a checkpoint now').action(
    async (vm: string, options: NodeOptions) => {
      await onVm('checkpoint', options, (node) => node.checkpoint(vm));
    },
  );
  nodeCommand(
    program,
    'failover <vm>',
    'planned switch-over: the secondary goes on, and nothing is lost; waits until it is heard',
  ).action(async (vm: string, options: NodeOptions) => {
    await onVm('failover', options, (node) => node.failover(vm));
  });
  nodeCommand(program, 'migrate <vm> <host>', 'move the primary to a host; waits until it is there').action(
    async (vm: string, host: string, options: NodeOptions) => {
      await onVm('migrate', options, (node) => withResyncBar(() => node.vm(vm), node.migrate(vm, host)));
    },
  );
  nodeCommand(program, 'pause [vm]', 'suspend automatic actions for a VM; with --host, place nothing there')
    .option('--host <host>', 'maintenance of a host instead; what runs there stays')
    .action((vm: string | undefined, options: PauseOptions) => setPaused('pause', vm, options, true));
  nodeCommand(program, 'resume [vm]', 'end what pause (or drain) began')
    .option('--host <host>', 'end the maintenance of a host instead')
    .action((vm: string | undefined, options: PauseOptions) => setPaused('resume', vm, options, false));
  nodeCommand(
    program,
    'drain <host>',
    'maintenance: move everything away from a host, place nothing there; waits until it is empty',
  ).action(async (host: string, options: NodeOptions) => {
    await onHost('drain', options, (node) => node.setMaintenance(host, true, { drain: true }));
  });
  nodeCommand(program, 'undrain <host>', 'end the maintenance of a host').action(
    async (host: string, options: NodeOptions) => {
      await onHost('undrain', options, (node) => node.setMaintenance(host, false, { drain: false }));
    },
  );
}

async function onVm(
  name: string,
  options: NodeOptions,
  act: (node: NodeClient) => Promise<VmView>,
): Promise<void> {
  await askNode(name, options, async (node) => {
    const vm = await act(node);
    if (options.json) printJson(vm);
    else printLine(oneLine(vm));
    return 0;
  });
}

/** `web1: protected on alpha, secondary on beta: the first checkpoint is complete`. */
export function oneLine(vm: VmView): string {
  const where = [
    ...(vm.primary === null ? [] : [`on ${vm.primary}`]),
    ...(vm.secondary === null ? [] : [`secondary on ${vm.secondary}`]),
  ].join(', ');
  const paused = vm.isPaused ? ' (paused)' : '';
  return printable(`${vm.name}: ${vm.state}${paused}${where === '' ? '' : ` ${where}`}: ${vm.reason}`);
}

async function onHost(
  name: string,
  options: NodeOptions,
  act: (node: NodeClient) => Promise<HostView>,
): Promise<void> {
  await askNode(name, options, async (node) => {
    const host = await act(node);
    if (options.json) printJson(host);
    else {
      const { primary, secondary } = host.vms;
      const state = host.isInMaintenance ? 'in maintenance' : 'in service';
      printLine(printable(`${host.name}: ${state}, ${primary} primaries, ${secondary} secondaries`));
    }
    return 0;
  });
}

async function setPaused(
  name: 'pause' | 'resume',
  vm: string | undefined,
  options: PauseOptions,
  isPaused: boolean,
): Promise<void> {
  const { host } = options;
  if (host !== undefined && vm === undefined) {
    await onHost(name, options, (node) => node.setMaintenance(host, isPaused, { drain: false }));
    return;
  }
  await onVm(name, options, (node) => {
    if (vm === undefined || host !== undefined) {
      throw new ParameterError(`give a VM, or --host HOST: colo ${name} web1`);
    }
    return node.setPaused(vm, isPaused);
  });
}

async function confirmPurge(vm: string, isSure: boolean): Promise<void> {
  if (isSure) return;
  if (!process.stdin.isTTY) {
    throw new ParameterError(`--purge deletes the disks of '${vm}': add --yes if that is meant`);
  }
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await lines.question(`Delete the disks of '${vm}' on every host? Type its name: `);
  lines.close();
  if (answer.trim() !== vm) throw new ParameterError('nothing was deleted');
}
