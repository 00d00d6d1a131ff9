/**
 * `colo status` as text, in the manner of patronictl's list: a row a copy, below it why a VM is not protected. Pure.
 *
 * Lag is what a copy has not got: of a secondary the age of the last checkpoint, which is how long the two guests have run
 * on since they were made the same; of a copy that joins, the bytes of disk that a resync still has to bring.
 */
import type { CopyView, VmView } from '../../ha/views.ts';
import { styleOfState, type Painter, type Style } from '../style.ts';
import { fittedTable, type Column } from './fitted.ts';
import { age, printable, size } from './text.ts';

/** In the order in which a narrow terminal is told them; ranks: docs/cli.md. */
export const STATUS_COLUMNS: readonly Column[] = [
  { head: 'VM' },
  { head: 'Role' },
  { head: 'Host' },
  { head: 'State' },
  { head: 'Epoch', isRight: true, rank: 2 },
  { head: 'Lag', isRight: true, rank: 1 },
  { head: 'RAM', isRight: true, rank: 5 },
  { head: 'Ckpt/s', isRight: true, rank: 4 },
  { head: 'Last failover', rank: 3 },
];

export interface TableView {
  readonly nowMs: number;
  /** Columns of the terminal; undefined: it is none. */
  readonly width?: number | undefined;
  readonly paint?: Painter;
}

export function vmTable(vms: readonly VmView[], { nowMs, width, paint }: TableView): string[] {
  if (vms.length === 0) return ['no VMs; colo up FILE makes one'];
  const sorted = [...vms].sort((a, b) => (a.name < b.name ? -1 : 1));
  return [
    ...fittedTable(
      STATUS_COLUMNS,
      sorted.flatMap((vm) => rowsOf(vm, nowMs)),
      { title: summary(vms), width, ...(paint && { paint }), styleOf: styleOfCell },
    ),
    ...sorted.filter(wantsWords).map((vm) => printable(`${vm.name}: ${sentence(vm, nowMs)}`)),
  ];
}

/** `3 VMs: 2 protected, 1 syncing` */
export function summary(vms: readonly VmView[]): string {
  const counts = new Map<string, number>();
  for (const { state } of vms) counts.set(state, (counts.get(state) ?? 0) + 1);
  const states = [...counts].sort(([, a], [, b]) => b - a).map(([state, count]) => `${count} ${state}`);
  return `${vms.length} VM${vms.length === 1 ? '' : 's'}${states.length > 0 ? `: ${states.join(', ')}` : ''}`;
}

export function stateOf(vm: VmView): string {
  return vm.state + (vm.isPaused ? ' (paused)' : '');
}

/** `syncing for 5 s: the disks are being copied` */
export function sentence(vm: VmView, nowMs: number): string {
  return `${stateOf(vm)} for ${age(vm.sinceMs, nowMs)}: ${vm.reason}`;
}

function wantsWords({ state, isWanted }: VmView): boolean {
  return state !== 'protected' && (state !== 'down' || isWanted);
}

/** Of which no process is told, and which nevertheless are: the host that speaks for a VM knows the pid of its own copy alone. */
function copiesOf(vm: VmView): CopyView[] {
  const { primary, secondary, state } = vm;
  const isToldOf = (host: string): boolean => vm.copies.some((copy) => copy.host === host);
  const isJoining = state === 'syncing' || state === 'protecting';
  return [
    ...vm.copies,
    ...(primary !== null && !isToldOf(primary)
      ? [{ host: primary, role: 'primary' as const, pid: null }]
      : []),
    ...(secondary !== null && !isToldOf(secondary)
      ? [{ host: secondary, role: isJoining ? ('joining' as const) : ('secondary' as const), pid: null }]
      : []),
  ];
}

/** The copy that is heard first, then the secondary, then whoever else has one. */
function rowsOf(vm: VmView, nowMs: number): string[][] {
  const place = ({ host }: CopyView): number => (host === vm.primary ? 0 : host === vm.secondary ? 1 : 2);
  const copies = copiesOf(vm).sort((a, b) => place(a) - place(b) || (a.host < b.host ? -1 : 1));
  const [first, ...others] = copies;
  const { checkpoints, lastFailover } = vm;
  const head = [
    vm.name,
    first?.role ?? '-',
    first?.host ?? vm.primary ?? '-',
    stateOf(vm),
    String(vm.epoch),
    first ? lagOf(vm, first, nowMs) : '',
    `${vm.memoryMiB} MiB`,
    checkpoints ? checkpoints.perSecond.toFixed(1) : '-',
    lastFailover ? `${age(lastFailover.atMs, nowMs)} ago, from ${lastFailover.from}` : '-',
  ];
  return [
    head,
    ...others.map((copy) => [
      vm.name,
      copy.role,
      copy.host,
      stateOfCopy(copy),
      String(vm.epoch),
      lagOf(vm, copy, nowMs),
      copy.role === 'idle' ? '' : `${vm.memoryMiB} MiB`,
      '',
      '',
    ]),
  ];
}

function stateOfCopy(copy: CopyView): string {
  if (copy.resync) return `resync ${percentOf(copy)}%`;
  return copy.role === 'idle' ? 'stopped' : 'running';
}

function lagOf(vm: VmView, copy: CopyView, nowMs: number): string {
  if (copy.resync) return size(Math.max(0, copy.resync.totalBytes - copy.resync.doneBytes));
  if (copy.role !== 'secondary') return '';
  const lastAtMs = vm.checkpoints?.lastAtMs ?? null;
  return lastAtMs === null ? '-' : shortAge(Math.max(0, nowMs - lastAtMs));
}

/** Tenths where they say something. */
function shortAge(ms: number): string {
  return ms < 9_950 ? `${(ms / 1000).toFixed(1)} s` : age(0, ms);
}

export function percentOf({ resync }: CopyView): number {
  if (!resync) return 100;
  return resync.totalBytes === 0 ? 100 : Math.floor((resync.doneBytes / resync.totalBytes) * 100);
}

export function styleOfCell(head: string, text: string): Style | null {
  if (head === 'State') return text.startsWith('resync') ? 'yellow' : styleOfState(text);
  return head === 'VM' ? 'bold' : null;
}
