/**
 * What going on alone takes of the guest and its disks, in the order that a power failure may interrupt (docs/ha-disks.md).
 * The arbiter has been asked by others. May be done again by a daemon that finds it half done.
 */
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { RecordId } from '../ha/arbiter/index.ts';
import type { RunningVm } from '../ha/index.ts';
import { BackOff } from '../ha/life/back-off.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { ControllerParts, DisksNote } from './parts.ts';
import { merged, pause } from './vm-talk.ts';

/** Between two tries to note a take-over, milliseconds. */
const NOTE_AGAIN = { firstMs: 100, longestMs: 2_000 };
const log = loggerFor('take-over');

export class TakeOver {
  readonly #parts: ControllerParts;
  /** Whether it is still this process that is to go on. */
  readonly #isCurrent: (vm: RunningVm) => boolean;
  #prepared: Promise<void> = Promise.resolve();
  #trouble: string | null = null;

  constructor(parts: ControllerParts, isCurrent: (vm: RunningVm) => boolean) {
    this.#parts = parts;
    this.#isCurrent = isCurrent;
  }

  /** Why a guest that may be heard is not heard yet, or null. */
  get trouble(): string | null {
    return this.#trouble;
  }

  /** Secondary, while the arbiter is asked: what has to be flushed, and does no harm if it is not to be. */
  prepare(vm: RunningVm): void {
    this.#prepared = (async () => {
      try {
        await this.#parts.steps.cutExports(vm);
        await this.#parts.disks.settle(vm.qmp);
      } catch (error) {
        log.warn({ vm: vm.name, err: error }, 'before a take-over');
      }
    })();
  }

  /** Resolves when the guest is heard. Throws when it cannot go on. */
  async ofSecondary(vm: RunningVm, spec: VmSpec, of: RecordId): Promise<void> {
    const { disks, steps } = this.#parts;
    await this.#prepared;
    // Before it is heard: a host that loses power from here on starts from what its guest has written.
    if (disks.kind === 'replica') await this.#noteTakeOver(vm, of);
    await steps.secondaryAlone(vm, spec);
    if (disks.kind === 'merging') void this.#awaitMerge(vm);
  }

  /** The same for a primary whose secondary is gone. */
  async ofPrimary(vm: RunningVm, spec: VmSpec, of: RecordId): Promise<void> {
    await this.#parts.steps.primaryAlone(vm, spec);
    // They are whole by the record before this one too: a full disk is no reason to end the guest.
    await this.note({ type: 'holds', of });
  }

  /** What cannot be noted is told in the log; a later start finds out by itself. Never rejects. */
  async note(event: DisksNote): Promise<void> {
    try {
      await this.#parts.disks.note(event);
    } catch (error) {
      log.warn({ event: event.type, err: error }, 'what the disks are could not be noted');
    }
  }

  /**
   * A disk that is full is no reason to throw the only guest away that there is: nothing of it is heard before there is
   * room again. Throws when its process has ended meanwhile.
   */
  async #noteTakeOver(vm: RunningVm, of: RecordId): Promise<void> {
    const again = new BackOff(NOTE_AGAIN);
    try {
      for (;;) {
        try {
          await this.#parts.disks.note({ type: 'takes-over', of });
          return;
        } catch (error) {
          if (!this.#isCurrent(vm)) throw error;
          this.#tell(messageOf(error));
          await pause(again.next());
        }
      }
    } finally {
      this.#trouble = null;
    }
  }

  #tell(trouble: string): void {
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    this.#parts.tell({ type: 'disk-trouble', reason: `the guest cannot be heard yet: ${trouble}` });
    this.#parts.publish();
  }

  /** The overlays become part of the disks in the background; from then on these are whole again. */
  async #awaitMerge(vm: RunningVm): Promise<void> {
    try {
      await merged(vm);
      if (this.#isCurrent(vm)) await this.note({ type: 'merged' });
    } catch (error) {
      log.warn({ vm: vm.name, err: error }, 'the merge of a take-over');
    }
  }
}
