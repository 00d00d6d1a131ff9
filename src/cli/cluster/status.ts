/** `colo status`, `colo hosts`: what the cluster tells about its VMs and hosts, once or again and again. */
import { setTimeout as delay } from 'node:timers/promises';
import { InvalidArgumentError, type Command } from 'commander';
import type { NodeClient } from '../../api/http-client.ts';
import { ColoError, messageOf } from '../../base/errors.ts';
import type { CopyView, HostView, VmView } from '../../ha/views.ts';
import { askNode, nodeCommand, printJson, printLine, type NodeOptions } from './connection.ts';
import { frame } from './screen.ts';
import { age, printable, size, table } from './text.ts';

/** Between two looks. */
const WATCH_SEC = 2;

interface StatusOptions extends NodeOptions {
  readonly watch?: true | number;
  readonly names?: boolean;
}

export function registerStatus(program: Command): void {
  nodeCommand(program, 'status [vm]', 'the VMs of the cluster: state, epoch, who is heard, and why')
    .option('-w, --watch [seconds]', `again every ${WATCH_SEC} seconds, or every so many`, seconds)
    .option('--names', 'names only, one a line')
    .action((vm: string | undefined, options: StatusOptions) =>
      run('status', options, (node) => show(node, vm)),
    );
  nodeCommand(program, 'hosts', 'the hosts of the cluster: memory, VMs, maintenance')
    .option('-w, --watch [seconds]', `again every ${WATCH_SEC} seconds, or every so many`, seconds)
    .option('--names', 'names only, one a line')
    .action((options: StatusOptions) => run('hosts', options, showHosts));
}

interface Shown {
  readonly json: unknown;
  readonly text: string;
  readonly names: readonly string[];
}

async function run(
  name: string,
  options: StatusOptions,
  look: (node: NodeClient) => Promise<Shown>,
): Promise<void> {
  await askNode(name, options, async (node) => {
    const print = ({ json, text, names }: Shown): void => {
      if (options.json) printJson(json);
      else if (!options.names) printLine(text);
      else for (const one of names) printLine(printable(one));
    };
    const { watch } = options;
    if (watch === undefined) {
      print(await look(node));
      return 0;
    }
    for (;;) {
      // A node that is being restarted is waited for.
      const shown = await look(node).catch((error: unknown) => {
        if (error instanceof ColoError)
          return { json: { error: messageOf(error) }, text: messageOf(error), names: [] };
        throw error;
      });
      if (process.stdout.isTTY && !options.json && !options.names)
        process.stdout.write(frame(shown.text.split('\n')));
      else print(shown);
      await delay((watch === true ? WATCH_SEC : watch) * 1000);
    }
  });
}

async function show(node: NodeClient, name: string | undefined): Promise<Shown> {
  if (name === undefined) {
    const vms = await node.vms();
    return { json: vms, text: vmTable(vms, Date.now()), names: namesOf(vms) };
  }
  const vm = await node.vm(name);
  return { json: vm, text: vmDetails(vm, Date.now()), names: [vm.name] };
}

function namesOf(named: readonly { readonly name: string }[]): string[] {
  return named.map(({ name }) => name).sort();
}

export function vmTable(vms: readonly VmView[], nowMs: number): string {
  if (vms.length === 0) return 'no VMs; colo up FILE makes one';
  const rows = [...vms]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((vm) => [
      vm.name,
      stateOf(vm),
      age(vm.sinceMs, nowMs),
      String(vm.epoch),
      vm.primary ?? '-',
      vm.secondary ?? '-',
      vm.reason,
    ]);
  return table(['VM', 'State', 'Since', 'Epoch', 'Primary', 'Secondary', 'Reason'], rows, new Set([2, 3]));
}

export function vmDetails(vm: VmView, nowMs: number): string {
  const lines = [
    `${vm.name}: ${stateOf(vm)} for ${age(vm.sinceMs, nowMs)}: ${vm.reason}`,
    `epoch ${vm.epoch}, ${vm.memoryMiB} MiB, engine ${vm.engine}, ${vm.isWanted ? 'is to run' : 'is to be down'}`,
  ];
  const { checkpoints, lastFailover } = vm;
  if (checkpoints) {
    const causes = Object.entries(checkpoints.byCause).map(([cause, count]) => `${count} ${cause}`);
    const pause = checkpoints.lastPauseMs === null ? '' : `, last pause ${checkpoints.lastPauseMs} ms`;
    lines.push(
      `checkpoints: ${checkpoints.count} (${causes.join(', ')}), ${checkpoints.perSecond.toFixed(1)}/s${pause}`,
    );
  }
  if (lastFailover) {
    const { atMs, from, to, reason } = lastFailover;
    lines.push(`last failover: ${age(atMs, nowMs)} ago from ${from} to ${to}: ${reason}`);
  }
  const rows = vm.copies.map((copy) => [copy.host, copy.role, String(copy.pid ?? '-'), resyncOf(copy)]);
  return [...lines.map(printable), table(['Host', 'Role', 'PID', 'Resync'], rows, new Set([2]))].join('\n');
}

async function showHosts(node: NodeClient): Promise<Shown> {
  const hosts = await node.hosts();
  return { json: hosts, text: hostTable(hosts), names: namesOf(hosts) };
}

export function hostTable(hosts: readonly HostView[]): string {
  const rows = [...hosts]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((host) => [
      host.name,
      (host.isAlive ? 'alive' : 'gone') + (host.isInMaintenance ? ', maintenance' : ''),
      host.api,
      `${host.freeMemoryMiB} of ${host.memoryMiB} MiB`,
      String(host.vms.primary),
      String(host.vms.secondary),
      host.software,
    ]);
  const heads = ['Host', 'State', 'API', 'Free memory', 'Primaries', 'Secondaries', 'Software'];
  return table(heads, rows, new Set([3, 4, 5]));
}

export function stateOf(vm: VmView): string {
  return vm.state + (vm.isPaused ? ' (paused)' : '');
}

export function resyncOf({ resync }: CopyView): string {
  if (!resync) return '-';
  const { doneBytes, totalBytes } = resync;
  const percent = totalBytes === 0 ? 100 : Math.floor((doneBytes / totalBytes) * 100);
  return `${percent}% of ${size(totalBytes)}`;
}

export function seconds(text: string): number {
  const value = Number(text);
  if (Number.isFinite(value) && value >= 0.1 && value <= 3600) return value;
  throw new InvalidArgumentError('expected a number from 0.1 to 3600');
}
