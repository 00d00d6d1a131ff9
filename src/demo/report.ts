/** How the demo speaks: lines and progress bars for people, one JSON object for machines, and the closing table. */
import cliProgress from 'cli-progress';

export interface Failover {
  readonly killed: 'primary' | 'secondary';
  /** From the SIGKILL, or whatever else it was, to the first reply on a connection that was open before. */
  readonly ms: number;
  /** What came before the SIGKILL; absent: nothing. */
  readonly how?: 'planned' | 'frozen' | 'link cut';
}

export interface DemoReport {
  readonly checkpoints: number;
  readonly pausesMs: readonly number[];
  readonly failovers: readonly Failover[];
  readonly requests: number;
  readonly connectionsLost: number;
  readonly ledgerLines: number;
  readonly ledgerLinesLost: number;
}

export interface ProgressBar {
  /** 0 to 1. */
  update(fraction: number): void;
  done(): void;
}

export interface Teller {
  step(text: string): void;
  trouble(text: string): void;
  progress(what: string): ProgressBar;
}

const silentBar: ProgressBar = { update: () => undefined, done: () => undefined };

/** For people: to standard output, bars only on a terminal. */
export function humanTeller(out: NodeJS.WriteStream): Teller {
  const began = performance.now();
  const stamp = (): string => `${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s`;
  return {
    step: (text) => out.write(`${stamp()}  ${text}\n`),
    trouble: (text) => out.write(`${stamp()}  !! ${text}\n`),
    progress: (what) => {
      if (!out.isTTY) {
        out.write(`${stamp()}  ${what} …\n`);
        return silentBar;
      }
      const bar = new cliProgress.SingleBar({
        format: `          ${what.padEnd(8)} {bar} {percentage} %`,
        hideCursor: true,
        stream: out,
        clearOnComplete: true,
      });
      bar.start(100, 0);
      return {
        update: (fraction) => bar.update(Math.min(100, Math.round(fraction * 100))),
        done: () => {
          bar.update(100);
          bar.stop();
        },
      };
    },
  };
}

/** For machines: nothing until the report; trouble goes to standard error. */
export const quietTeller: Teller = {
  step: () => undefined,
  trouble: (text) => process.stderr.write(`${text}\n`),
  progress: () => silentBar,
};

/** True only if nothing was lost. */
export function isClean(report: DemoReport): boolean {
  return report.connectionsLost === 0 && report.ledgerLinesLost === 0;
}

export function closingTable(report: DemoReport): string {
  const { pausesMs, failovers } = report;
  const rows: [string, string][] = [
    ['checkpoints', String(report.checkpoints)],
    ['pause of each (ms)', spread(pausesMs)],
    [
      'failover as the client saw it (ms)',
      failovers.map(({ ms, killed, how }) => `${ms.toFixed(0)} (${how ?? killed})`).join(', ') || '-',
    ],
    ['requests made', String(report.requests)],
    ['connections lost', String(report.connectionsLost)],
    ['ledger lines acknowledged', String(report.ledgerLines)],
    ['ledger lines lost', String(report.ledgerLinesLost)],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join('\n');
}

function spread(values: readonly number[]): string {
  if (values.length === 0) return '-';
  const sorted = [...values].sort((a, b) => a - b);
  const pick = (share: number): string =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!.toFixed(1);
  return `median ${pick(0.5)}, 95 % ${pick(0.95)}, longest ${pick(1)}`;
}
