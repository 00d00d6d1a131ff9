/**
 * Whether the guest runs, and the only place that changes it: stop, cont, checkpoints and failover all come through
 * here, one at a time, so that STOP and RESUME always tell the truth.
 *
 * Two owners. The user stops and continues (`stop`, `resume`); the checkpoint frame freezes and thaws (`freeze`,
 * `thaw`). While the guest is frozen a user's `cont` does nothing: a machine whose state is being taken or loaded must
 * not run, and the frame lets it run soon anyway. As in QEMU a thaw does not ask whether the user had stopped the guest
 * before (colo.c, vm_start).
 *
 * A guest on QEMU may also come to a stand by itself: a disk failed, a watchdog rang, its kernel panicked. It stays
 * like that through a checkpoint; on a secondary not, whose guest is then the primary's. One that sleeps is woken, as
 * by a migration of QEMU.
 */
import { Mutex } from '../base/async.ts';
import type { Engine } from '../engine/engine.ts';
import type { Netdev } from '../net/netdev.ts';

/** QEMU's run states (qapi/run-state.json) as far as they occur here. */
export type RunState =
  | 'prelaunch'
  | 'inmigrate'
  | 'running'
  | 'paused'
  | 'colo'
  | 'finish-migrate'
  | 'postmigrate'
  | 'shutdown'
  | 'internal-error'
  | SelfStop;

/** A guest that stands because of something that happened in it, not because it was told to. */
export type SelfStop = (typeof SELF_STOPS)[number];
const SELF_STOPS = ['io-error', 'watchdog', 'guest-panicked', 'suspended', 'debug'] as const;

export interface RunListener {
  onStop(): void;
  onResume(): void;
}

export class RunControl {
  readonly #engine: Engine | null;
  readonly #netdevs: ReadonlyMap<string, Netdev>;
  readonly #listener: RunListener;
  readonly #mutex = new Mutex();
  #state: RunState;
  #frozenFrom: RunState = 'paused';
  /** What runs after a thaw is another's guest: that ours stood by itself means nothing. */
  isFollower = false;
  #wantedAfterMigration: 'stop' | 'run' | null = null;

  /** `engine` is null under `-machine none`: the run state is then only a word. */
  constructor(
    engine: Engine | null,
    netdevs: ReadonlyMap<string, Netdev>,
    initial: RunState,
    listener: RunListener,
  ) {
    this.#engine = engine;
    this.#netdevs = netdevs;
    this.#state = initial;
    this.#listener = listener;
  }

  get state(): RunState {
    return this.#state;
  }

  get isRunning(): boolean {
    return this.#state === 'running';
  }

  /** What the user said about an incoming guest before it came; overrides -S, except for a secondary. */
  get wantedAfterMigration(): 'stop' | 'run' | null {
    return this.#wantedAfterMigration;
  }

  /** The user's stop. Ends with no vCPU running and no request in flight; a guest that stands is left as it is. */
  async stop(state: RunState): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state === 'running') await this.#halt(state);
      else if (this.#state === 'inmigrate') this.#wantedAfterMigration = 'stop';
    });
  }

  /** The user's cont. */
  async resume(): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state === 'inmigrate') this.#wantedAfterMigration = 'run';
      // As in QEMU what wakes a guest that sleeps is system_wakeup.
      else if (this.#state !== 'colo' && this.#state !== 'suspended') await this.#go();
    });
  }

  /** For a checkpoint, a migration or a failover: the guest stands, as `colo`, until one of the following. */
  async freeze(): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#isOver || this.#state === 'colo') return;
      this.#frozenFrom = this.#state;
      if (this.#state === 'running') await this.#halt('colo');
      else this.#state = 'colo';
    });
  }

  /**
   * Lets a frozen guest run, or one that has just come, its clock `lateMs` ahead. One that the user stopped meanwhile
   * stays stopped.
   */
  async thaw(lateMs = 0): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state === 'colo' && !this.isFollower && isStanding(this.#frozenFrom)) {
        this.#state = this.#frozenFrom;
      } else if (this.#state === 'colo' || this.#state === 'inmigrate') await this.#go(lateMs);
    });
  }

  /** The guest stands by itself, for the reason that is QEMU's run state. */
  stoppedItself(reason: string): void {
    const state = reason === 'internal-error' || reason === 'shutdown' ? reason : selfStop(reason);
    if (state === null || this.#isOver) return;
    if (this.#state === 'running') {
      for (const netdev of this.#netdevs.values()) netdev.hold();
      this.#state = state;
      // QEMU has an event of its own for a guest that sleeps.
      if (state !== 'suspended') this.#listener.onStop();
    } else if (this.#state === 'colo') this.#frozenFrom = state;
    else if (this.#state === 'paused') this.#state = state;
  }

  /** A guest that stood by itself runs. */
  resumedItself(): void {
    if (selfStop(this.#state) === null) return;
    const wasAsleep = this.#state === 'suspended';
    this.#state = 'running';
    if (!wasAsleep) this.#listener.onResume();
    for (const netdev of this.#netdevs.values()) netdev.release();
  }

  /** system_reset has been done: as in QEMU a guest that does not run stands before its first instruction. */
  wasReset(): void {
    if (!['running', 'inmigrate', 'colo', 'finish-migrate'].includes(this.#state)) this.#state = 'prelaunch';
  }

  /** Undoes a freeze: the guest runs if it ran before, and stands if it stood. */
  async restore(): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state !== 'colo') return;
      if (this.#frozenFrom === 'running') await this.#go();
      else this.#state = this.#frozenFrom;
    });
  }

  /** Ends with the guest standing by that name, whatever it did before. */
  async settle(state: RunState): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state === 'running') await this.#halt(state);
      else if (!this.#isOver) this.#state = state;
    });
  }

  /** False: what the guest says waits in front of the wire (bounded) until it may be heard. */
  setHeard(isHeard: boolean): void {
    for (const netdev of this.#netdevs.values()) {
      if (isHeard) netdev.releaseOutput();
      else netdev.holdOutput();
    }
  }

  /** The machine ended by itself or was told to: no way back but `system_reset` or `quit`. */
  mark(state: RunState): void {
    this.#state = state;
  }

  get #isOver(): boolean {
    return this.#state === 'shutdown' || this.#state === 'internal-error';
  }

  async #halt(state: RunState): Promise<void> {
    await this.#engine?.preparePause?.();
    // First the network: what is mirrored from now on is not part of the state that stands.
    for (const netdev of this.#netdevs.values()) netdev.hold();
    try {
      await this.#engine?.pause();
    } catch (error) {
      for (const netdev of this.#netdevs.values()) netdev.release();
      throw error;
    }
    // The guest may have shut itself down while it was being stopped.
    if (this.#isOver) return;
    // Or come to a stand, which has been told.
    if (this.#state !== 'running') {
      if (state !== 'colo') return;
      this.#frozenFrom = this.#state;
      this.#state = state;
      return;
    }
    this.#state = state;
    this.#listener.onStop();
  }

  async #go(lateMs = 0): Promise<void> {
    if (this.#state === 'running') return;
    await this.#engine?.resume(lateMs);
    this.#state = 'running';
    this.#listener.onResume();
    for (const netdev of this.#netdevs.values()) netdev.release();
  }
}

function selfStop(state: string): SelfStop | null {
  return SELF_STOPS.find((name) => name === state) ?? null;
}

/** The guest is not to run after a checkpoint either. */
function isStanding(state: RunState): boolean {
  return state !== 'suspended' && selfStop(state) !== null;
}
