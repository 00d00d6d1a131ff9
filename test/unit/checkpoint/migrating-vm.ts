/**
 * A VM as far as migrations go: an engine without a machine, a disk and a network that write down what they are told,
 * and the events that a monitor would get.
 */
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { TlsCredentialsSet } from '../../../src/base/tls/objects.ts';
import type { ProtectedGuest } from '../../../src/checkpoint/guest.ts';
import type { AnnounceTimes } from '../../../src/net/announcer.ts';
import { VmMigration } from '../../../src/vm/migration.ts';
import type { RunState } from '../../../src/vm/run-control.ts';
import { RunControl } from '../../../src/vm/run-control.ts';
import { MemoryEngine } from '../../helpers/memory-engine.ts';
import { Journal, hello } from './frame-pair.ts';

export const SOON_MS = 20_000;

export class Vm {
  readonly engine = new MemoryEngine();
  readonly lines: string[] = [];
  readonly events: string[] = [];
  /** Why COLO ended, in a word and a sentence. */
  readonly ends: string[] = [];
  readonly tls = new TlsCredentialsSet();
  readonly net = new Journal('net', this.lines);
  readonly disk = new Journal('disk', this.lines);
  readonly run: RunControl;
  /** With which times it was told to announce itself. */
  readonly announced: AnnounceTimes[] = [];
  readonly migration: VmMigration;
  readonly guest: ProtectedGuest;
  settleJobs: () => Promise<void> = () => Promise.resolve();
  #watchers: (() => void)[] = [];

  constructor(state: RunState, startPaused = false) {
    this.run = new RunControl(this.engine, new Map(), state, {
      onStop: () => this.#emit('STOP'),
      onResume: () => this.#emit('RESUME'),
    });
    if (state === 'running') this.engine.state = 'running';
    this.guest = {
      engine: this.engine,
      pause: () => this.run.freeze(),
      resume: () => this.run.thaw(),
      disks: () => [this.disk],
      networks: () => [this.net],
    };
    this.migration = new VmMigration({
      guest: this.guest,
      run: this.run,
      describe: (colo) => hello(this.engine, colo),
      emit: (event, data = {}) => {
        const { 'x-detail': detail, 'x-message': message, ...members } = data;
        if (typeof detail === 'string') this.ends.push(`${detail}: ${String(message)}`);
        this.#emit([event, ...Object.values(members)].join(' '));
      },
      setSilent: (silent) => this.#emit(silent ? '(silent)' : '(heard)'),
      notifyFilters: (event) => this.#emit(`(filters: ${event})`),
      settleJobs: () => this.settleJobs(),
      requireComparers: () => undefined,
      announce: (times) => {
        this.announced.push(times);
        this.#emit('(announce)');
      },
      startPaused,
      tlsCredentials: this.tls.find,
    });
    this.migration.setCapabilities([{ capability: 'events', state: true }]);
  }

  get status(): unknown {
    return this.migration.queryMigrate()['status'];
  }

  /** Resolves when the event has happened. */
  async event(text: string): Promise<void> {
    const found = new Deferred<void>();
    const look = (): void => {
      if (this.events.includes(text)) found.resolve();
    };
    this.#watchers.push(look);
    look();
    await withDeadline(found.promise, SOON_MS, `${text} (so far: ${this.events.join(', ')})`);
  }

  #emit(text: string): void {
    this.events.push(text);
    for (const look of this.#watchers) look();
  }
}
