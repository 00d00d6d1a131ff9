/**
 * The client that must not notice: a session connection whose counter shows a drop, and a ledger connection that
 * appends lines and remembers which were acknowledged. Both stay open through every failover; a lost one is counted
 * and opened again, so that a run that goes wrong still ends.
 */
import { LineConnection } from './line-connection.ts';

export interface WorkloadOptions {
  readonly host: string;
  readonly sessionPort: number;
  readonly ledgerPort: number;
  /** Pause between two requests of one connection. */
  readonly intervalMs: number;
  /** A reply later than this is a lost connection. */
  readonly patienceMs: number;
  readonly onTrouble?: (what: string) => void;
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

  /** Line number → text of every line that the guest has acknowledged. */
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
    return {
      requests: this.#requests,
      connectionsLost: this.#connectionsLost,
      ledgerLines: this.#acknowledged.size,
      ledgerLinesLost: await this.#missingLines(),
    };
  }

  async #missingLines(): Promise<number> {
    const { host, ledgerPort, patienceMs } = this.#options;
    const reader = await LineConnection.open(host, ledgerPort, patienceMs);
    let missing = 0;
    for (const [number, text] of this.#acknowledged) {
      const reply = await reader.request(`read ${number}`, patienceMs);
      if (reply !== `line ${text}`) {
        missing++;
        this.#options.onTrouble?.(`ledger line ${number}: '${reply}' instead of '${text}'`);
      }
    }
    reader.close();
    return missing;
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
    let sent = 0;
    const text = (): string => `entry ${process.pid}-${sent}`;
    await this.#loop(
      this.#options.ledgerPort,
      () => undefined,
      () => {
        sent++;
        return `append ${text()}`;
      },
      (reply) => {
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
