/**
 * What the comparers have seen, for whoever asks why there are so many checkpoints or why packets are slow. Ours, not
 * QEMU's: there is no such query in QEMU, so names follow its habits (members in kebab-case, a list of objects by id).
 * Counts are since the object was made; a reset of them is object-del and object-add.
 */
import type { ColoCompare } from '../../net/compare/compare.ts';
import type { LatencySummary } from '../../net/compare/latency.ts';
import type { RecentSummary } from '../../net/compare/recent-latency.ts';
import type { CheckpointCause } from '../../net/compare/comparer.ts';
import { command, noArguments } from '../registry.ts';

export interface CompareReport {
  readonly id: string;
  readonly mode: ColoCompare['mode'];
  readonly requests: { readonly total: number } & Readonly<Record<CheckpointCause, number>>;
  readonly frames: Readonly<Record<string, number>>;
  readonly bytes: Readonly<Record<string, number>>;
  readonly held: Readonly<Record<string, number>>;
  readonly limits: Readonly<Record<string, number>>;
  readonly 'held-us': {
    readonly 'by-comparison': LatencySummary;
    readonly 'by-checkpoint': LatencySummary;
    readonly recent: RecentSummary;
  };
}

export const compareCommands = [
  command('query-colo-compare', noArguments, (vm) => vm.objects.comparers().map(reportOf)),
];

export function reportOf(compare: ColoCompare): CompareReport {
  const { stats } = compare;
  return {
    id: compare.id,
    mode: compare.mode,
    requests: { total: stats.requests, ...stats.requestsByCause },
    frames: {
      'primary-in': stats.primaryIn,
      'secondary-in': stats.secondaryIn,
      released: stats.released,
      'released-by-checkpoint': stats.releasedByCheckpoint,
      repeated: stats.repeated,
      forwarded: stats.forwarded,
      'dropped-primary': stats.droppedPrimary,
      'dropped-secondary': stats.droppedSecondary,
      stale: stats.stale,
      ignored: stats.ignored,
      'zero-length': compare.zeroLengthFrames,
      lost: compare.lostReleases,
    },
    bytes: {
      'primary-in': stats.primaryInBytes,
      'secondary-in': stats.secondaryInBytes,
      released: stats.releasedBytes,
    },
    held: {
      connections: compare.connections,
      'evicted-connections': compare.evicted,
      'primary-packets': compare.heldPackets,
      'primary-bytes': compare.heldBytes,
      'secondary-packets': compare.secondaryPackets,
      'secondary-bytes': compare.secondaryBytes,
    },
    limits: {
      connections: compare.maxConnections,
      packets: compare.maxQueueSize,
      bytes: compare.maxHeldBytes,
    },
    'held-us': {
      'by-comparison': compare.heldUntilSaid.summary(),
      'by-checkpoint': compare.heldUntilCheckpoint.summary(),
      recent: compare.heldRecently,
    },
  };
}

/** The human monitor's form of it. */
export function reportText(report: CompareReport): string {
  const list = (name: string, counts: Readonly<object>): string =>
    `    ${name}: ${Object.entries(counts)
      .map(([key, count]) => `${key} ${String(count)}`)
      .join(', ')}\r\n`;
  return [
    `${report.id}: ${report.mode}\r\n`,
    list('requests', report.requests),
    list('frames', report.frames),
    list('bytes', report.bytes),
    list('held', report.held),
    list('limits', report.limits),
    list('held (us) until said', report['held-us']['by-comparison']),
    list('held (us) until a checkpoint', report['held-us']['by-checkpoint']),
    list('held (us) lately', report['held-us'].recent),
  ].join('');
}
