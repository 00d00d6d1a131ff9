/**
 * The primary's disks while it is protected: from the moment at which the other host's copy of one lacks a write (a
 * forward has failed, say) nothing of the guest's may leave, or a client would be told of a write that only this host
 * has, and a pair that loses its power then could start from the copy without it (docs/architecture.md, rules 1 and 2).
 * A participant tells at that very moment, before the guest's own write goes on, and the output is closed before the
 * telling returns.
 *
 * What has ended the pair is told a little later. A peer that dies takes its disk with it, and what its channel says of
 * that, or its last words, tell more than a failed write: they get a moment to come.
 */
import { ColoError, messageOf } from '../base/errors.ts';
import type { CheckpointParticipant } from '../base/participant.ts';
import type { CheckpointChannel } from './channel.ts';

/** Beyond the time between the ends of two connections of one process that has died. */
const LAST_WORDS_MS = 100;

/** The other host's copy of a disk is none any more. */
export class ForwardFailedError extends ColoError {
  constructor(disk: CheckpointParticipant, cause: Error) {
    super(`${disk.participantName}: the other host's disk is no copy any more: ${messageOf(cause)}`, {
      cause,
    });
  }
}

export class DiskWatch {
  readonly #channel: CheckpointChannel;
  readonly #closeOutput: () => void;
  #disks: readonly CheckpointParticipant[] = [];
  #failure: ForwardFailedError | null = null;
  #isOver = false;
  #timer: NodeJS.Timeout | null = null;

  /** `closeOutput` is called once, at the first failure; the channel is given up soon afterwards. */
  constructor(channel: CheckpointChannel, closeOutput: () => void) {
    this.#channel = channel;
    this.#closeOutput = closeOutput;
  }

  get disks(): readonly CheckpointParticipant[] {
    return this.#disks;
  }

  /** Why the pair is about to end, or null. */
  get failure(): Error | null {
    return this.#failure;
  }

  async start(disks: readonly CheckpointParticipant[]): Promise<void> {
    this.#disks = disks;
    for (const disk of disks) {
      disk.onFailure?.((error) => this.#failed(disk, error));
      await disk.start('primary');
    }
  }

  /** Throws when a disk has failed: a write that did not reach the secondary's must not be covered by a checkpoint. */
  check(): void {
    if (this.#failure) throw this.#failure;
    for (const disk of this.#disks) {
      const failed = disk.error();
      if (failed) throw new ForwardFailedError(disk, failed);
    }
  }

  /** From now on it is expected that the disks part. */
  stop(): void {
    this.#isOver = true;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #failed(disk: CheckpointParticipant, cause: Error): void {
    if (this.#isOver || this.#failure) return;
    const failure = (this.#failure = new ForwardFailedError(disk, cause));
    this.#closeOutput();
    this.#timer = setTimeout(() => this.#channel.giveUp(failure), LAST_WORDS_MS);
  }
}
