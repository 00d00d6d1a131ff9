/** Copies of the demo's VM that are no processes, and a pair that is made of them at once: for what is decided about them. */
import { PassThrough, type Duplex } from 'node:stream';
import type { NewEvent } from '../../src/api/events.ts';
import { Deferred } from '../../src/base/async.ts';
import { ColoError } from '../../src/base/errors.ts';
import type { DemoCopy } from '../../src/demo/copy.ts';
import { HOSTS } from '../../src/demo/pair.ts';
import { PairKeeper } from '../../src/demo/keeper.ts';
import type { Cables } from '../../src/demo/link-relay.ts';
import type { Failover } from '../../src/demo/report.ts';
import type { PairLinks } from '../../src/ha/pair-links.ts';
import type { ProcessState } from '../../src/ha/beat/messages.ts';
import type { QmpEvent } from '../../src/qmp/types.ts';

export class FalseCopy implements DemoCopy {
  readonly name: string;
  readonly host: string;
  readonly pid: number;
  readonly hasConsole = true;
  readonly hasScreen = false;
  state: ProcessState = 'running';
  viewersSentAway = 0;
  /** Of each console that was opened. */
  readonly consoles: { readonly isReadOnly: boolean }[] = [];
  checkpoints = 0;
  readonly #ended = new Deferred<void>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();

  constructor(name: string, host: string, pid: number) {
    this.name = name;
    this.host = host;
    this.pid = pid;
  }

  readonly qmp = {
    execute: (command: string): Promise<unknown> => {
      if (!this.isAlive) return Promise.reject(new ColoError(`${this.name} is gone`));
      if (command === 'x-colo-checkpoint') this.checkpoints++;
      if (command !== 'query-colo-checkpoints') return Promise.resolve({});
      const records = Array.from({ length: Math.min(this.checkpoints, 64) }, () => ({ pauseMs: 5 }));
      return Promise.resolve({ count: this.checkpoints, 'by-cause': { request: this.checkpoints }, records });
    },
    onEvent: (listener: (event: QmpEvent) => void): (() => void) => {
      this.#listeners.add(listener);
      return () => this.#listeners.delete(listener);
    },
    waitFor: (): Promise<QmpEvent> => Promise.reject(new ColoError('nobody waits here')),
  };

  get exited(): Promise<void> {
    return this.#ended.promise;
  }

  get isAlive(): boolean {
    return this.state !== 'gone';
  }

  readonly processState = (): ProcessState => this.state;

  tell(event: string, data: Record<string, unknown> = {}): void {
    const timestamp = { seconds: 0, microseconds: 0 };
    for (const listener of [...this.#listeners]) listener({ event, data, timestamp });
  }

  kill(): Promise<void> {
    this.state = 'gone';
    this.#ended.resolve();
    return Promise.resolve();
  }

  freeze(): void {
    this.state = 'stopped';
  }

  console(isReadOnly: boolean): Promise<Duplex> {
    this.consoles.push({ isReadOnly });
    return Promise.resolve(new PassThrough());
  }

  screen(): Promise<Duplex> {
    return Promise.reject(new ColoError('no screen'));
  }

  sendViewersAway(): void {
    this.viewersSentAway++;
  }
}

/** A keeper whose pairs are made at once, of false copies. */
export class FalseDemo {
  readonly events: NewEvent[] = [];
  readonly lines: string[] = [];
  /** What was done to the copies, oldest first. */
  readonly done: string[] = [];
  readonly first = new FalseCopy('primary-0', HOSTS[0], 100);
  readonly copies: FalseCopy[] = [this.first];
  /** Awaited in the middle of a resync. */
  syncing: Promise<void> = Promise.resolve();
  /** The guest's last words for its next survivor. */
  failure: Error | null = null;
  readonly keeper: PairKeeper;

  constructor({ linkPatienceMs = 10 } = {}) {
    this.keeper = new PairKeeper({
      vm: 'demo',
      linkPatienceMs,
      tell: { step: (line) => this.lines.push(line) },
      event: (event) => this.events.push(event),
      cables: (primaryHost) => Promise.resolve(this.#cables(primaryHost)),
      startSecondary: (generation, links) => {
        const copy = new FalseCopy(`secondary-${generation}`, links.secondaryHost, 100 + generation);
        this.copies.push(copy);
        return Promise.resolve(copy);
      },
      client: {
        firstReplyAfter: (atMs) => Promise.resolve(atMs + 7),
        takeNumbers: () => ({ requests: 5, connectionsLost: 0, longestWaitMs: 7 }),
      },
      steps: {
        openSockets: () => Promise.resolve(),
        protect: async (_primary, _secondary, _links, { onProgress, onSynced }) => {
          onProgress?.({ doneBytes: 1, totalBytes: 2, isReady: false, error: null });
          await this.syncing;
          onSynced?.();
        },
        primaryAlone: (primary) => this.#alone('primary', primary),
        secondaryAlone: (secondary) => this.#alone('secondary', secondary),
      },
    });
  }

  /** A guest that has booted. */
  booted(): this {
    this.keeper.begin(this.first);
    this.keeper.booted();
    return this;
  }

  get states(): (string | undefined)[] {
    return this.events.filter(({ type }) => type === 'state').map(({ to }) => to);
  }

  /** In whole milliseconds: (clock + 7) - clock is not 7 for every clock, as a double has no room for all digits. */
  get failovers(): Failover[] {
    return this.keeper.failovers.map((failover) => ({ ...failover, ms: Math.round(failover.ms) }));
  }

  get primary(): FalseCopy {
    return this.copies.find((copy) => copy === this.keeper.primary) ?? this.first;
  }

  get secondary(): FalseCopy {
    const found = this.copies.find((copy) => copy === this.keeper.secondary);
    if (!found) throw new Error('there is no secondary');
    return found;
  }

  #alone(role: string, copy: DemoCopy): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    const alive = this.copies.filter(({ isAlive }) => isAlive).map(({ name }) => name);
    this.done.push(`${role} ${copy.name} alone, alive: ${alive.join(' ')}`);
    return Promise.resolve();
  }

  #cables(primaryHost: string): Cables {
    const secondaryHost = primaryHost === HOSTS[0] ? HOSTS[1] : HOSTS[0];
    const links: PairLinks = { primaryHost, secondaryHost, nics: [], nbdPort: 1, migrationPort: 2 };
    return {
      ...{ forPrimary: links, forSecondary: links, isCuttable: true },
      cut: () => this.done.push('cut'),
      close: () => undefined,
    };
  }
}
