/** `colo status`, `colo hosts`: what the cluster tells about its VMs and hosts, once or again and again. */
import { setTimeout as delay } from 'node:timers/promises';
import { InvalidArgumentError, type Command } from 'commander';
import type { NodeClient } from '../../api/http-client.ts';
import { ColoError, messageOf } from '../../base/errors.ts';
import type { CopyView, HostView, VmView } from '../../ha/views.ts';
import { painterFor, styleOfState, type Style } from '../style.ts';
import { askNode, nodeCommand, printJson, printLine, type NodeOptions } from './connection.ts';
import { fittedTable, type Column } from './fitted.ts';
import { barLine, ResyncMeter } from './resync.ts';
import { frame } from './screen.ts';
import { age, printable, size, table } from './text.ts';
import { percentOf, sentence, vmTable, type TableView } from './vm-table.ts';

/** Between two looks. */
const WATCH_SEC = 2;

interface StatusOptions extends NodeOptions {
  readonly watch?: true | number;
  readonly names?: boolean;
}

export function registerStatus(program: Command): void {
  nodeCommand(
    program,
    'status [vm]',
    'the VMs of the cluster, a row a copy: role, host, state, epoch, lag, RAM, checkpoints, failovers',
  )
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
  readonly lines: readonly string[];
  readonly names: readonly string[];
  /** Those that are shown; their resyncs are bars where a screen is drawn. */
  readonly vms?: readonly VmView[];
}

async function run(
  name: string,
  options: StatusOptions,
  look: (node: NodeClient) => Promise<Shown>,
): Promise<void> {
  const { watch, json: isJson, names: isNames } = options;
  await askNode(name, options, async (node) => {
    const print = ({ json, lines, names }: Shown): void => {
      // Again and again: one line a look, so that a reader knows where it ends.
      if (isJson && watch !== undefined) printLine(JSON.stringify(json));
      else if (isJson) printJson(json);
      else if (isNames) for (const one of names) printLine(printable(one));
      else printLine(lines.join('\n'));
    };
    if (watch === undefined) {
      print(await look(node));
      return 0;
    }
    const isDrawn = process.stdout.isTTY && !isJson && !isNames;
    const meter = new ResyncMeter();
    for (;;) {
      // A node that is being restarted is waited for.
      const shown = await look(node).catch((error: unknown): Shown => {
        if (!(error instanceof ColoError)) throw error;
        return { json: { error: messageOf(error) }, lines: [printable(messageOf(error))], names: [] };
      });
      if (isDrawn) process.stdout.write(frame([...shown.lines, ...resyncLines(meter, shown.vms ?? [])]));
      else print(shown);
      await delay((watch === true ? WATCH_SEC : watch) * 1000);
    }
  });
}

function resyncLines(meter: ResyncMeter, vms: readonly VmView[]): string[] {
  const nowMs = Date.now();
  return vms.flatMap((vm) => {
    const progress = meter.look(vm, nowMs);
    return progress ? [printable(barLine(progress))] : [];
  });
}

/** The terminal's width, and whether it has colours. */
function view(): TableView {
  const { stdout } = process;
  return {
    nowMs: Date.now(),
    width: stdout.isTTY && stdout.columns > 0 ? stdout.columns : undefined,
    paint: painterFor(stdout),
  };
}

async function show(node: NodeClient, name: string | undefined): Promise<Shown> {
  if (name === undefined) {
    const vms = await node.vms();
    return { json: vms, lines: vmTable(vms, view()), names: namesOf(vms), vms };
  }
  const vm = await node.vm(name);
  return { json: vm, lines: vmDetails(vm, Date.now()).split('\n'), names: [vm.name], vms: [vm] };
}

function namesOf(named: readonly { readonly name: string }[]): string[] {
  return named.map(({ name }) => name).sort();
}

export function vmDetails(vm: VmView, nowMs: number): string {
  const lines = [
    `${vm.name}: ${sentence(vm, nowMs)}`,
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
  return { json: hosts, lines: hostTable(hosts, view()), names: namesOf(hosts) };
}

const HOST_COLUMNS: readonly Column[] = [
  { head: 'Host' },
  { head: 'State' },
  { head: 'API', rank: 2 },
  { head: 'Free memory', isRight: true, rank: 1 },
  { head: 'Primaries', isRight: true, rank: 3 },
  { head: 'Secondaries', isRight: true, rank: 4 },
  { head: 'Software', rank: 5 },
];

export function hostTable(hosts: readonly HostView[], { width, paint }: TableView): string[] {
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
  const styleOf = (head: string, text: string): Style | null =>
    head === 'State' ? styleOfState(text.replace(',', '')) : null;
  return fittedTable(HOST_COLUMNS, rows, { width, ...(paint && { paint }), styleOf });
}

export function resyncOf(copy: CopyView): string {
  return copy.resync ? `${percentOf(copy)}% of ${size(copy.resync.totalBytes)}` : '-';
}

export function seconds(text: string): number {
  const value = Number(text);
  if (Number.isFinite(value) && value >= 0.1 && value <= 3600) return value;
  throw new InvalidArgumentError('expected a number from 0.1 to 3600');
}
