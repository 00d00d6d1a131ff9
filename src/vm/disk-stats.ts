/**
 * What query-blockstats counts of a guest disk (QEMU qapi/block-core.json: BlockDeviceStats; block/accounting.c): bytes
 * and requests that ended well, failures by themselves, the time that both took, and when the last one ended.
 */
const KINDS = ['rd', 'wr', 'flush', 'unmap'] as const;
export type DiskOperation = (typeof KINDS)[number];

interface Count {
  bytes: number;
  operations: number;
  failed: number;
  totalMs: number;
}

export class DiskStats {
  readonly #counts: Readonly<Record<DiskOperation, Count>> = {
    rd: { bytes: 0, operations: 0, failed: 0, totalMs: 0 },
    wr: { bytes: 0, operations: 0, failed: 0, totalMs: 0 },
    flush: { bytes: 0, operations: 0, failed: 0, totalMs: 0 },
    unmap: { bytes: 0, operations: 0, failed: 0, totalMs: 0 },
  };
  #lastMs: number | null = null;

  /** A request that began at `startMs` (performance.now()) has ended. */
  ended(operation: DiskOperation, bytes: number, startMs: number, isGood: boolean): void {
    const count = this.#counts[operation];
    this.#lastMs = performance.now();
    count.totalMs += this.#lastMs - startMs;
    if (isGood) {
      count.bytes += bytes;
      count.operations++;
    } else count.failed++;
  }

  /** QEMU's members, but for `wr_highest_offset`, which is the node's. Nothing is merged here, and no request is invalid. */
  report(): Record<string, unknown> {
    const report: Record<string, unknown> = {};
    for (const kind of KINDS) {
      const { bytes, operations, failed, totalMs } = this.#counts[kind];
      if (kind !== 'flush') {
        report[`${kind}_bytes`] = bytes;
        report[`${kind}_merged`] = 0;
      }
      report[`${kind}_operations`] = operations;
      report[`${kind}_total_time_ns`] = Math.round(totalMs * 1e6);
      report[`failed_${kind}_operations`] = failed;
      report[`invalid_${kind}_operations`] = 0;
    }
    if (this.#lastMs !== null) report['idle_time_ns'] = Math.round((performance.now() - this.#lastMs) * 1e6);
    return report;
  }
}
