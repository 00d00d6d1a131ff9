/**
 * The primary's side of COLO: waits for a reason to checkpoint, takes one, and again. The dialogue of one checkpoint
 * reads top to bottom in `#checkpoint` (QEMU: migration/colo.c, colo_do_checkpoint_transaction), with two differences:
 * the guest goes on as soon as its state has been captured, its output and its forwarded writes held by the
 * participants until the secondary has it; and both sides cut their packet streams at marks, so that no packet of one
 * epoch is compared with one of another.
 *
 * Any failure ends the loop with an error; the guest goes on, its output stays held: going on alone is for the
 * manager to decide (x-colo-lost-heartbeat → `failover`).
 */
import { Deferred } from '../base/async.ts';
import { ClosedError, ColoError } from '../base/errors.ts';
import type { CheckpointParticipant } from '../base/participant.ts';
import type { CheckpointChannel } from './channel.ts';
import type { CheckpointCause, CheckpointRecord, ColoExitReason, ProtectedGuest } from './guest.ts';
import { COLO_MESSAGE } from './messages.ts';

export interface PrimaryHooks {
  /** Emitted once, when the loop ends. */
  onExit(reason: ColoExitReason, error: Error | null): void;
  onCheckpoint?(record: CheckpointRecord): void;
}

export class ColoPrimary {
  readonly #guest: ProtectedGuest;
  readonly #channel: CheckpointChannel;
  readonly #hooks: PrimaryHooks;
  #disks: readonly CheckpointParticipant[] = [];
  #delayMs: number;
  #timer: NodeJS.Timeout | null = null;
  /** Requests coalesce into one, as in QEMU. */
  #wanted: CheckpointCause | null = null;
  #wake: Deferred<void> | null = null;
  #failover: Deferred<void> | null = null;
  #sequence = 0;
  readonly #ended = new Deferred<void>();

  /** `delayMs`: x-checkpoint-delay, the longest time between two checkpoints. */
  constructor(guest: ProtectedGuest, channel: CheckpointChannel, delayMs: number, hooks: PrimaryHooks) {
    this.#guest = guest;
    this.#channel = channel;
    this.#delayMs = delayMs;
    this.#hooks = hooks;
    void channel.closed.then(() => this.#wake?.resolve());
  }

  /** Resolves when the loop has ended, for whatever reason. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** As in QEMU a change asks for a checkpoint at once (colo_checkpoint_delay_set). */
  setDelay(ms: number): void {
    this.#delayMs = ms;
    this.request('parameter');
  }

  /** Asks for a checkpoint. Cheap; may be called for every packet. */
  request(cause: CheckpointCause): void {
    if (this.#wanted !== null) return;
    this.#wanted = cause;
    this.#armTimer();
    this.#wake?.resolve();
  }

  /** Ends the loop because this side goes on alone. Resolves when the loop has ended. */
  async failover(): Promise<void> {
    this.#failover ??= new Deferred<void>();
    this.#channel.destroy(new ClosedError('checkpoint channel: failover was requested'));
    this.#wake?.resolve();
    await this.#ended.promise;
  }

  /**
   * The whole of the primary's COLO: from the stopped guest whose state the secondary has just loaded to the end of
   * protection. Never rejects.
   */
  async run(): Promise<void> {
    let error: Error | null = null;
    try {
      await this.#start();
      for (;;) {
        const cause = await this.#nextCause();
        await this.#checkpoint(cause);
      }
    } catch (cause) {
      error = cause instanceof Error ? cause : new ColoError(String(cause));
    }
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    const requested = this.#failover !== null;
    this.#channel.destroy(error);
    // Nothing may be forwarded any more: the secondary may hold either state, and its disk must fit it.
    for (const disk of this.#disks) await quietly(() => disk.stop('primary', true));
    for (const net of this.#guest.networks()) await quietly(() => net.stop('primary', requested));
    this.#hooks.onExit(requested ? 'request' : 'error', requested ? null : error);
    await quietly(() => this.#guest.resume());
    this.#ended.resolve();
  }

  async #start(): Promise<void> {
    await this.#channel.expect(COLO_MESSAGE.CHECKPOINT_READY);
    this.#disks = this.#guest.disks();
    for (const disk of this.#disks) await disk.start('primary');
    await this.#guest.resume();
    for (const net of this.#guest.networks()) net.resumed?.('primary');
    this.#armTimer();
  }

  async #nextCause(): Promise<CheckpointCause> {
    while (this.#wanted === null && !this.#channel.failure && !this.#failover) {
      const wake = (this.#wake = new Deferred<void>());
      await wake.promise;
    }
    this.#wake = null;
    this.#checkFailover();
    if (this.#channel.failure) throw this.#channel.failure;
    return this.#wanted ?? 'timer';
  }

  async #checkpoint(cause: CheckpointCause): Promise<void> {
    const channel = this.#channel;
    const guest = this.#guest;
    const asked = performance.now();

    await channel.send(COLO_MESSAGE.CHECKPOINT_REQUEST);
    await channel.expect(COLO_MESSAGE.CHECKPOINT_REPLY);
    const peerMarks = await channel.receiveMarks();
    this.#checkFailover();

    const networks = guest.networks();
    const paused = performance.now();
    for (const net of networks) net.stopping?.('primary');
    await guest.pause();
    // A write that did not reach the secondary's disk must not be covered by a checkpoint.
    for (const disk of this.#disks) {
      const failed = disk.error();
      if (failed) throw new ColoError(`Checkpoint given up: ${failed.message}`, { cause: failed });
    }
    const participants = [...this.#disks, ...networks];
    const marks = participants.flatMap((participant) => participant.stopped('primary'));
    const [snapshot] = await Promise.all([
      guest.engine.capture({ full: false }),
      ...networks.map((net) => net.peerMarks?.('primary', peerMarks)),
    ]);
    this.#checkFailover();
    await guest.resume();
    for (const net of networks) net.resumed?.('primary');
    const resumed = performance.now();

    // Requests up to here are answered by this checkpoint; what differs from now on needs another one.
    this.#wanted = null;
    const bytes = snapshot.ram.byteLength + snapshot.device.byteLength;
    await channel.sendState(snapshot);
    await channel.sendMarks(marks);
    await channel.expect(COLO_MESSAGE.VMSTATE_RECEIVED);
    // The output commit point: the secondary holds the cause of every packet of the closed epoch.
    for (const net of networks) await net.commit('primary');
    const received = performance.now();
    await channel.expect(COLO_MESSAGE.VMSTATE_LOADED);
    // Only now: the secondary's overlays are empty, so a forwarded write cannot be seen by the secondary's guest.
    for (const disk of this.#disks) await disk.commit('primary');

    this.#hooks.onCheckpoint?.({
      sequence: ++this.#sequence,
      cause,
      pauseMs: resumed - paused,
      heldMs: received - asked,
      totalMs: performance.now() - asked,
      pages: snapshot.pages,
      bytes,
    });
  }

  #checkFailover(): void {
    if (this.#failover) throw new ClosedError('failover was requested');
  }

  /** Measured from the last request, as in QEMU. */
  #armTimer(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.request('timer'), this.#delayMs);
  }
}

/** At the end of a loop every participant is told, whatever the others answer. */
async function quietly(act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch {
    // The loop's own error has been reported; a participant that fails to stop changes nothing about it.
  }
}
