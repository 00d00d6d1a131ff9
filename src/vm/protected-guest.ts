/** The VM as the checkpoint frame sees it. */
import type { CheckpointParticipant } from '../base/participant.ts';
import type { ProtectedGuest } from '../checkpoint/guest.ts';
import type { Engine } from '../engine/engine.ts';
import type { VmDisks } from './disks.ts';
import type { VmObjects } from './objects.ts';
import type { RunControl } from './run-control.ts';

export class VmGuest implements ProtectedGuest {
  readonly engine: Engine;
  readonly #run: RunControl;
  readonly #disks: VmDisks;
  readonly #objects: VmObjects;

  constructor(engine: Engine, run: RunControl, disks: VmDisks, objects: VmObjects) {
    this.engine = engine;
    this.#run = run;
    this.#disks = disks;
    this.#objects = objects;
  }

  pause(): Promise<void> {
    return this.#run.freeze();
  }

  resume(lateMs = 0): Promise<void> {
    return this.#run.thaw(lateMs);
  }

  disks(): readonly CheckpointParticipant[] {
    return this.#disks.participants();
  }

  networks(): readonly CheckpointParticipant[] {
    return this.#objects.participants();
  }
}
