/**
 * How one VM's process on this host is, for the beats: dead, as its end is told; stopped, as the kernel says; mute, when
 * its monitor has not answered for longer than the patience; else alive. Asks `query-status`, one question at a time.
 * Knows nothing of the guest: one that is paused has a monitor that answers.
 */
import { AwakeClock } from './awake-clock.ts';
import type { Condition, ProcessState } from './messages.ts';
import { processState } from './process-state.ts';

export interface WatchedVm {
  readonly pid: number;
  /** Any monitor; its answer does not matter. */
  readonly qmp: { execute(command: string): Promise<unknown> };
  readonly exited: Promise<unknown>;
}

export interface VmPulse {
  readonly pid: number;
  readonly condition: Condition;
  readonly state: ProcessState;
  readonly answerMs: number | null;
}

export interface VmWatchOptions {
  readonly intervalMs: number;
  readonly patienceMs: number;
  /** At once on a death; within an interval of the kernel's word that it is stopped. */
  readonly onChange: (pulse: VmPulse, before: Condition) => void;
  readonly now?: () => number;
  readonly stateOf?: (pid: number) => ProcessState;
}

export class VmWatch {
  readonly #vm: WatchedVm;
  readonly #options: VmWatchOptions;
  readonly #clock: AwakeClock;
  readonly #timer: NodeJS.Timeout;
  #answeredAt: number | null = null;
  #isAsking = false;
  #isDead = false;
  #isStopped = false;
  #state: ProcessState = 'unknown';
  #condition: Condition = 'unknown';

  constructor(vm: WatchedVm, options: VmWatchOptions) {
    this.#vm = vm;
    this.#options = options;
    this.#clock = new AwakeClock(
      options.now ?? (() => performance.now()),
      Math.max(options.patienceMs / 2, options.intervalMs),
    );
    this.#timer = setInterval(() => this.look(), options.intervalMs);
    const die = (): void => {
      this.#isDead = true;
      this.#tell();
    };
    vm.exited.then(die, die);
    this.look();
  }

  /** As of the last look. */
  pulse(): VmPulse {
    const answerMs = this.#answeredAt === null ? null : this.#clock.now() - this.#answeredAt;
    return { pid: this.#vm.pid, condition: this.#condition, state: this.#state, answerMs };
  }

  /** What the timer does. */
  look(): void {
    if (this.#isStopped) return;
    this.#clock.look();
    this.#state = (this.#options.stateOf ?? processState)(this.#vm.pid);
    if (!this.#isAsking && !this.#isDead) void this.#ask();
    this.#tell();
  }

  stop(): void {
    this.#isStopped = true;
    clearInterval(this.#timer);
  }

  async #ask(): Promise<void> {
    this.#isAsking = true;
    try {
      await this.#vm.qmp.execute('query-status');
      this.#answeredAt = this.#clock.now();
      this.#tell();
    } catch {
      // No answer: its age grows.
    } finally {
      this.#isAsking = false;
    }
  }

  #tell(): void {
    if (this.#isStopped) return;
    const before = this.#condition;
    this.#condition = this.#judge();
    if (this.#condition !== before) this.#options.onChange(this.pulse(), before);
  }

  #judge(): Condition {
    if (this.#isDead || this.#state === 'gone') return 'dead';
    if (this.#state === 'stopped') return 'stopped';
    if (this.#answeredAt === null) return 'unknown';
    return this.#clock.now() - this.#answeredAt > this.#options.patienceMs ? 'mute' : 'alive';
  }
}
