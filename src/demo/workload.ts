/**
 * The client that must not notice: a session connection whose counter shows a drop, and a ledger connection that
 * appends lines and remembers which were acknowledged. Both stay open through every failover; a lost one is counted
 * and opened again, so that a run that goes wrong still ends. Lines are read back at the end; when there are many, the
 * oldest earlier, one for each that is added.
 */
import { LineConnection } from './line-connection.ts';

/** Lines that have not been read back. */
export const MAX_UNREAD_LINES = 4096;
/** Questions on their way at the end. */
const READ_AT_ONCE = 32;

export interface WorkloadOptions {
  readonly host: string;
  readonly sessionPort: number;
  readonly ledgerPort: number;
  /** Pause between two requests of one connection. */
  readonly intervalMs: number;
  /** A reply later than this is a lost connection. */
  readonly patienceMs: number;
  readonly onTrouble?: (what: string) => void;
  /** Default: MAX_UNREAD_LINES. */
  readonly maxUnreadLines?: number;
}

/** How it goes. */
export interface WorkloadNumbers {
  readonly requests: number;
  readonly connectionsLost: number;
  /** The longest wait for a reply since this was asked for last, milliseconds. */
  readonly longestWaitMs: number;
}

export interface WorkloadReport {
  readonly requests: number;
  readonly connectionsLost: number;
  readonly ledgerLines: number;
  readonly ledgerLinesLost: number;
}

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #acknowledged = new Map<number, string>();
  #waiters: { after: number; resolve: (at: number) => void }[] = [];
  #requests = 0;
  #connectionsLost = 0;
  #longestWaitMs = 0;
  #linesRead = 0;
  #linesMissing = 0;
  #stopping = false;
  #loops: Promise<void>[] = [];

  constructor(options: WorkloadOptions) {
    this.#options = options;
  }

  get requests(): number {
    return this.#requests;
  }

  takeNumbers(): WorkloadNumbers {
    const longestWaitMs = this.#longestWaitMs;
    this.#longestWaitMs = 0;
    return { requests: this.#requests, connectionsLost: this.#connectionsLost, longestWaitMs };
  }

  /** Line number → text of every line that the guest has acknowledged and that has not been read back. */
  get acknowledged(): ReadonlyMap<number, string> {
    return this.#acknowledged;
  }

  start(): void {
    this.#loops = [this.#sessionLoop(), this.#ledgerLoop()];
  }

  /**
   * The monotonic time (ms, performance.now) of the first reply on an existing connection to a request that was sent
   * after `after`.
   */
  firstReplyAfter(after: number): Promise<number> {
    return new Promise((resolve) => this.#waiters.push({ after, resolve }));
  }

  /** Ends the loops, then reads the whole ledger back on a new connection and compares. */
  async stop(): Promise<WorkloadReport> {
    this.#stopping = true;
    await Promise.all(this.#loops);
    const ledgerLines = this.#linesRead + this.#acknowledged.size;
    await this.#readLedger();
    return {
      requests: this.#requests,
      connectionsLost: this.#connectionsLost,
      ledgerLines,
      ledgerLinesLost: this.#linesMissing,
    };
  }

  async #readLedger(): Promise<void> {
    const { host, ledgerPort, patienceMs } = this.#options;
    const reader = await LineConnection.open(host, ledgerPort, patienceMs);
    const numbers = [...this.#acknowledged.keys()];
    while (numbers.length > 0) {
      await Promise.all(
        numbers
          .splice(0, READ_AT_ONCE)
          .map(async (number) => this.#compare(number, await reader.request(`read ${number}`, patienceMs))),
      );
    }
    reader.close();
  }

  #compare(number: number, reply: string): void {
    const text = this.#acknowledged.get(number) ?? '';
    this.#acknowledged.delete(number);
    this.#linesRead++;
    if (reply === `line ${text}`) return;
    this.#linesMissing++;
    this.#options.onTrouble?.(`ledger line ${number}: '${reply}' instead of '${text}'`);
  }

  async #sessionLoop(): Promise<void> {
    const identity = { id: '', count: 0 };
    await this.#loop(
      this.#options.sessionPort,
      () => {
        identity.id = '';
        identity.count = 0;
      },
      () => 'tick',
      (reply) => {
        const [, id, count] = /^session (\S+) (\d+)$/.exec(reply) ?? [];
        if (id === undefined || count === undefined) return `unexpected reply '${reply}'`;
        if (identity.id === '') identity.id = id;
        identity.count++;
        if (id !== identity.id || Number(count) !== identity.count) {
          return `session ${identity.id} ${identity.count} became ${id} ${count}`;
        }
        return null;
      },
    );
  }

  async #ledgerLoop(): Promise<void> {
    const { ledgerPort, maxUnreadLines = MAX_UNREAD_LINES } = this.#options;
    let sent = 0;
    /** The line that is being read back. */
    let reading: number | null = null;
    const text = (): string => `entry ${process.pid}-${sent}`;
    await this.#loop(
      ledgerPort,
      () => undefined,
      () => {
        const [oldest] = this.#acknowledged.keys();
        reading = this.#acknowledged.size >= maxUnreadLines ? (oldest ?? null) : null;
        if (reading !== null) return `read ${reading}`;
        sent++;
        return `append ${text()}`;
      },
      (reply) => {
        if (reading !== null) {
          this.#compare(reading, reply);
          return null;
        }
        const number = Number(/^ok (\d+)$/.exec(reply)?.[1] ?? NaN);
        if (Number.isNaN(number)) return `unexpected reply '${reply}'`;
        if (this.#acknowledged.has(number)) return `line ${number} was acknowledged twice`;
        this.#acknowledged.set(number, text());
        return null;
      },
    );
  }

  /** Requests one after the other on one connection, opened again only when it was lost. */
  async #loop(
    port: number,
    opened: () => void,
    next: () => string,
    check: (reply: string) => string | null,
  ): Promise<void> {
    const { host, patienceMs, intervalMs } = this.#options;
    while (!this.#stopping) {
      let connection: LineConnection | null = null;
      try {
        connection = await LineConnection.open(host, port, patienceMs);
        opened();
        while (!this.#stopping) {
          const asked = performance.now();
          const reply = await connection.request(next(), patienceMs);
          this.#requests++;
          const trouble = check(reply);
          if (trouble) throw new Error(trouble);
          this.#answered(asked);
          await new Promise((resolve) => setTimeout(resolve, intervalMs));
        }
      } catch (error) {
        this.#connectionsLost++;
        this.#options.onTrouble?.(`port ${port}: ${error instanceof Error ? error.message : String(error)}`);
        // A guest that is gone would be asked in a tight loop otherwise.
        await new Promise((resolve) => setTimeout(resolve, 500));
      } finally {
        connection?.close();
      }
    }
  }

  #answered(asked: number): void {
    const now = performance.now();
    this.#longestWaitMs = Math.max(this.#longestWaitMs, now - asked);
    const done = this.#waiters.filter((waiter) => waiter.after <= asked);
    this.#waiters = this.#waiters.filter((waiter) => waiter.after > asked);
    for (const waiter of done) waiter.resolve(now);
  }
}
