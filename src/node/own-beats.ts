/** What this host's heartbeats say of its own copies: each one's process is watched, and told of at once when it changes. */
import { VmWatch, type VmBeat } from '../ha/beat/index.ts';
import type { Controller } from './controller.ts';

interface Watched {
  readonly controller: Controller;
  readonly watch: VmWatch;
  readonly pid: number;
}

export class OwnBeats {
  readonly #watched = new Map<string, Watched>();
  readonly #tell: (beat: VmBeat) => void;

  /** `tell` hears of changes; `report` has everything. */
  constructor(tell: (beat: VmBeat) => void) {
    this.#tell = tell;
  }

  /** Its process may be another one, or none any more. */
  look(controller: Controller): void {
    const { vm, spec, name } = controller;
    if (vm?.pid === this.#watched.get(name)?.pid) return;
    this.forget(name);
    if (!vm) return;
    const { intervalMs, patienceMs } = spec.heartbeat;
    const watch = new VmWatch(vm, { intervalMs, patienceMs, onChange: () => this.#tell(beatOf(watched)) });
    const watched: Watched = { controller, watch, pid: vm.pid };
    this.#watched.set(name, watched);
  }

  forget(name: string): void {
    this.#watched.get(name)?.watch.stop();
    this.#watched.delete(name);
  }

  stop(): void {
    for (const name of this.#watched.keys()) this.forget(name);
  }

  report(): VmBeat[] {
    return Array.from(this.#watched.values(), beatOf);
  }
}

function beatOf({ controller: { name, side }, watch }: Watched): VmBeat {
  return { name, phase: side.phase, epoch: side.known?.epoch ?? 0, ...watch.pulse() };
}
