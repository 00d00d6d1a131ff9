/**
 * What `colo top` shows, as text: a line a VM, sorted, with checkpoints a second by cause, counted from one look to the
 * next. Pure.
 */
import type { VmView } from '../../ha/views.ts';
import { unpainted, type Painter } from '../style.ts';
import { fittedTable, type Column } from './fitted.ts';
import { sparkline, type PauseHistory } from './pauses.ts';
import { resyncOf } from './status.ts';
import { age, printable } from './text.ts';
import { stateOf, styleOfCell, summary } from './vm-table.ts';

/** One look at the cluster. */
export interface Look {
  readonly atMs: number;
  readonly vms: readonly VmView[];
}

/** Key → what the table is sorted by. */
export const ORDERS = {
  n: 'name',
  s: 'state',
  e: 'epoch',
  l: 'last checkpoint',
  p: 'pause',
  c: 'checkpoints/s',
} as const;
export type OrderKey = keyof typeof ORDERS;

export interface TopOptions {
  readonly order: OrderKey;
  readonly isReversed: boolean;
}

export function isOrderKey(key: string): key is OrderKey {
  return Object.hasOwn(ORDERS, key);
}

/** Checkpoints a second of each cause since `before`; null: there was no such look, or the count began anew. */
export function ratesByCause(
  vm: VmView,
  before: Look | null,
  atMs: number,
): Readonly<Record<string, number>> | null {
  const earlier = before?.vms.find(({ name }) => name === vm.name)?.checkpoints;
  const now = vm.checkpoints;
  if (!before || !earlier || !now || now.count < earlier.count || atMs <= before.atMs) return null;
  const seconds = (atMs - before.atMs) / 1000;
  const rates = Object.entries(now.byCause).map(([cause, count]): [string, number] => {
    const old = Object.hasOwn(earlier.byCause, cause) ? (earlier.byCause[cause] ?? 0) : 0;
    return [cause, Math.max(0, count - old) / seconds];
  });
  return Object.fromEntries(rates.filter(([, rate]) => rate > 0));
}

/** What a narrow terminal leaves out: first the causes, last the resync. */
const COLUMNS: readonly Column[] = [
  { head: 'VM' },
  { head: 'State' },
  { head: 'Epoch', isRight: true, rank: 5 },
  { head: 'Primary' },
  { head: 'Secondary', rank: 2 },
  { head: 'Last', isRight: true, rank: 4 },
  { head: 'Pause', isRight: true, rank: 3 },
  { head: '/s', isRight: true, rank: 6 },
  { head: 'By cause /s', rank: 8 },
  { head: 'Resync', rank: 1 },
  { head: 'Pauses', rank: 7 },
];

export function topRows(look: Look, before: Look | null, options: TopOptions): string[][] {
  return sorted(look.vms, options).map((vm) => {
    const { checkpoints } = vm;
    const rates = ratesByCause(vm, before, look.atMs);
    const causes = Object.entries(rates ?? {})
      .sort(([, a], [, b]) => b - a)
      .map(([cause, rate]) => `${cause} ${rate.toFixed(1)}`);
    const resyncs = vm.copies.filter(({ resync }) => resync).map((copy) => resyncOf(copy));
    return [
      vm.name,
      stateOf(vm),
      String(vm.epoch),
      vm.primary ?? '-',
      vm.secondary ?? '-',
      typeof checkpoints?.lastAtMs === 'number' ? age(checkpoints.lastAtMs, look.atMs) : '-',
      typeof checkpoints?.lastPauseMs === 'number' ? `${Math.round(checkpoints.lastPauseMs)} ms` : '-',
      checkpoints ? checkpoints.perSecond.toFixed(1) : '-',
      causes.join(', ') || '-',
      resyncs.join(', ') || '-',
    ];
  });
}

/** Names from A; what is worth a look first: the newest epoch, the longest pause, the oldest checkpoint, the most a second. */
function sorted(vms: readonly VmView[], { order, isReversed }: TopOptions): VmView[] {
  const value = (vm: VmView): number | string => {
    switch (order) {
      case 'n':
        return '';
      case 's':
        return vm.state;
      case 'e':
        return -vm.epoch;
      case 'l':
        return vm.checkpoints?.lastAtMs ?? Infinity;
      case 'p':
        return -(vm.checkpoints?.lastPauseMs ?? -1);
      case 'c':
        return -(vm.checkpoints?.perSecond ?? -1);
    }
  };
  const compare = (a: number | string, b: number | string): number => (a < b ? -1 : a > b ? 1 : 0);
  const all = [...vms].sort((a, b) => compare(value(a), value(b)) || compare(a.name, b.name));
  return isReversed ? all.reverse() : all;
}

export interface TopState extends TopOptions {
  /** Of the node that is asked. */
  readonly where: string;
  /** The last look's failure; the table is the one before. */
  readonly trouble: string | null;
  /** VMs above the first that is shown. */
  readonly skip: number;
  /** Of the terminal; without: as wide as it takes. */
  readonly columns?: number | undefined;
  readonly paint?: Painter;
  readonly pauses?: PauseHistory;
  /** The terminal shows more than ASCII. */
  readonly isUnicode?: boolean;
}

/** The screen's lines, `rows` at most. */
export function topLines(look: Look | null, before: Look | null, state: TopState, rows: number): string[] {
  const { order, isReversed, where, trouble, skip, paint = unpainted, pauses, isUnicode = true } = state;
  const time = look ? new Date(look.atMs).toTimeString().slice(0, 8) : '-';
  const head = [
    paint('bold', `colo top ${time}, ${where}: ${look ? summary(look.vms) : 'asking'}`),
    trouble === null
      ? `by ${ORDERS[order]}${isReversed ? ', reversed' : ''}; n s e l p c sort, r reverse, arrows scroll, q quit`
      : paint('red', `not reached: ${printable(trouble)}`),
  ];
  if (!look) return head;
  if (look.vms.length === 0) return [...head, 'no VMs; colo up FILE makes one'];
  const cells = topRows(look, before, state).map((row) => [
    ...row,
    sparkline(pauses?.of(row[0] ?? '') ?? [], isUnicode),
  ]);
  // Two lines above, the table's four own, one for what does not fit.
  const room = Math.max(1, rows - head.length - 5);
  const from = Math.min(skip, Math.max(0, cells.length - room));
  const shown = cells.slice(from, from + room);
  const hidden = cells.length - shown.length;
  return [
    ...head,
    ...fittedTable(COLUMNS, shown, { width: state.columns, paint, styleOf: styleOfCell }),
    ...(hidden > 0 ? [`${hidden} more: ${from} above, ${hidden - from} below`] : []),
  ];
}

/** For a file or a pipe: a line a VM, `name=value`, the time first. */
export function topPlain(look: Look, before: Look | null, options: TopOptions): string[] {
  const time = new Date(look.atMs).toISOString();
  const names = ['vm', 'state', 'epoch', 'primary', 'secondary', 'last', 'pause', 'rate', 'causes', 'resync'];
  return topRows(look, before, options).map((cells) => {
    const pairs = names.map((name, at) => `${name}=${word(cells[at] ?? '-')}`);
    return [time, ...pairs].join(' ');
  });
}

function word(text: string): string {
  const clean = printable(text);
  return /[\s"]/.test(clean) ? JSON.stringify(clean) : clean;
}
