/**
 * A primary that gives way to its secondary in order: its guest stands still first, so that both sides have all that it
 * has written, and its disks need only what changes from then on (docs/ha-disks.md, "Whether a bitmap is enough").
 *
 * Whether that holds is known at the end alone: a checkpoint lets a guest run that had been stopped (as in QEMU), and a
 * person may.
 */
import { ColoError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { RunningVm } from '../ha/index.ts';
import { RECONNECTED } from '../qmp/lasting-client.ts';
import type { QmpEvent } from '../qmp/types.ts';
import { pause } from './vm-talk.ts';

const log = loggerFor('giving-way');
/** A checkpoint that is under way does not hear `stop`; it takes no longer than that, milliseconds. */
const STAND_MS = 5_000;
const LOOK_MS = 10;

export class GivingWay {
  #vm: RunningVm | null = null;
  #hasRun = false;

  get isUnderWay(): boolean {
    return this.#vm !== null;
  }

  /** Resolves when the guest stands. Throws ColoError when it cannot be brought to; it runs then. */
  async begin(vm: RunningVm): Promise<void> {
    this.#vm = vm;
    const deadline = performance.now() + STAND_MS;
    try {
      do {
        if (performance.now() > deadline) throw new ColoError(`the guest of '${vm.name}' does not stop`);
        this.#hasRun = false;
        await vm.qmp.execute('stop');
        if (await stands(vm)) return;
        await pause(LOOK_MS);
      } while (this.isUnderWay);
      throw new ColoError(`the process of '${vm.name}' has ended`);
    } catch (error) {
      await this.undo();
      throw error;
    }
  }

  /** The other side has not taken over. */
  async undo(): Promise<void> {
    const vm = this.#vm;
    this.#vm = null;
    if (!vm) return;
    try {
      await vm.qmp.execute('cont');
    } catch (error) {
      log.warn({ vm: vm.name, reason: messageOf(error) }, 'a guest that was stopped does not go on');
    }
  }

  /** Of the process's monitor. */
  onVmEvent({ event }: QmpEvent): void {
    // What was said while nobody listened is not known.
    if (event === 'RESUME' || event === RECONNECTED) this.#hasRun = true;
  }

  /** Whether the guest has stood all the time. Asked when the pair has ended; the answer is given once. `vm`: null, it is gone. */
  async isDone(vm: RunningVm | null): Promise<boolean> {
    const isIt = this.#vm === vm;
    this.#vm = null;
    if (vm === null || !isIt || this.#hasRun) return false;
    return (await stands(vm).catch(() => false)) && !this.#hasRun;
  }
}

async function stands({ qmp }: RunningVm): Promise<boolean> {
  return ((await qmp.execute('query-status')) as { readonly status: string }).status === 'paused';
}
