/**
 * Whether the guest runs, and the only place that changes it: stop, cont, checkpoints and failover all come through
 * here, one at a time, so that STOP and RESUME always tell the truth.
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
  | 'internal-error';

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

  /** Ends with no vCPU running and no request in flight. A guest that stands already only changes its state's name. */
  async stop(state: RunState): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state !== 'running') {
        if (this.#state !== 'prelaunch' || state !== 'paused') this.#state = state;
        return;
      }
      // First the network: what is mirrored from now on is not part of the state that stands.
      for (const netdev of this.#netdevs.values()) netdev.hold();
      await this.#engine?.pause();
      this.#state = state;
      this.#listener.onStop();
    });
  }

  async resume(): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#state === 'running') return;
      await this.#engine?.resume();
      this.#state = 'running';
      this.#listener.onResume();
      for (const netdev of this.#netdevs.values()) netdev.release();
    });
  }

  /** The machine ended by itself or was told to: no way back but `system_reset` or `quit`. */
  mark(state: RunState): void {
    this.#state = state;
  }
}
