/**
 * The secondary's side of COLO: answers the primary's dialogue (see primary.ts). Rule: the previous state stays until
 * all of the new one has arrived and its checksums are right; from then on the new one is loaded whatever happens to
 * the primary, because the primary may have released output that depends on it.
 *
 * The clocks. The primary's guest runs again as soon as its state has been captured, this one when it has been loaded.
 * VMSTATE_SEND leaves at that moment, so the time since it arrived is what this guest's clock is behind; it skips that.
 * Then both copies of a guest that answers with the time answer the same, but for the latency of the path, with which
 * this one gets its input anyway. And after a takeover no time stamp lies before one that a client has seen (RFC 7323,
 * 5.3: it would be discarded).
 */
import { ClosedError, ColoError, ProtocolError, messageOf } from '../base/errors.ts';
import { Deferred } from '../base/async.ts';
import type { CheckpointParticipant } from '../base/participant.ts';
import type { CheckpointChannel } from './channel.ts';
import type { ColoExitReason, ProtectedGuest } from './guest.ts';
import { COLO_MESSAGE, nameOfMessage } from './messages.ts';

export interface SecondaryHooks {
  onExit(reason: ColoExitReason, error: Error | null): void;
  /** A checkpoint was loaded; `loadMs`: from all bytes received to the guest running. */
  onLoaded?(record: { sequence: number; loadMs: number; pages: number; bytes: number }): void;
}

export class ColoSecondary {
  readonly #guest: ProtectedGuest;
  readonly #channel: CheckpointChannel;
  readonly #hooks: SecondaryHooks;
  readonly #now: () => number;
  #disks: readonly CheckpointParticipant[] = [];
  #sequence = 0;
  #failover = false;
  /**
   * Why there is no whole state to go on from: replication has not begun yet, a complete checkpoint is being loaded,
   * or loading it failed. Null while there is one.
   */
  #torn: Error | 'starting' | 'loading' | null = 'starting';
  readonly #ended = new Deferred<void>();

  /** `now`: monotonic milliseconds. */
  constructor(
    guest: ProtectedGuest,
    channel: CheckpointChannel,
    hooks: SecondaryHooks,
    now = (): number => performance.now(),
  ) {
    this.#now = now;
    this.#guest = guest;
    this.#channel = channel;
    this.#hooks = hooks;
  }

  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** True when a checkpoint was being loaded and could not be: the guest must not run any more. */
  get isTorn(): boolean {
    return this.#torn instanceof Error;
  }

  /**
   * This side goes on alone: the dialogue is broken off, a load that has begun is finished first, the disks start
   * their commit. Resolves with the guest standing still; throws when a load failed and there is no whole state.
   */
  async failover(): Promise<void> {
    this.#failover = true;
    this.#channel.giveUp(new ClosedError('failover was requested'));
    await this.#ended.promise;
    if (this.#torn) {
      const why = this.#torn instanceof Error ? this.#torn.message : 'protection had not begun';
      throw new ColoError(`This secondary has no whole state to take over from: ${why}`, {
        cause: this.#torn,
      });
    }
    await this.#guest.pause();
    for (const disk of this.#disks) await disk.stop('secondary', true);
    for (const net of this.#guest.networks()) await net.stop('secondary', true);
  }

  /** From the loaded first state to the end of protection. Never rejects. */
  async run(): Promise<void> {
    let error: Error;
    try {
      await this.#start();
      for (;;) {
        const code = await this.#channel.receive({ idle: true });
        if (code !== COLO_MESSAGE.CHECKPOINT_REQUEST) {
          throw new ProtocolError(`checkpoint channel: unexpected message ${nameOfMessage(code)}`);
        }
        await this.#checkpoint();
      }
    } catch (cause) {
      error = await this.#channel.explain(cause instanceof Error ? cause : new ColoError(String(cause)));
    }
    if (this.#torn === 'starting') {
      this.#torn = error;
      await this.#channel.sendFailure(error.message).catch(() => undefined);
    }
    this.#channel.giveUp(error);
    this.#hooks.onExit(this.#failover ? 'request' : 'error', this.#failover ? null : error);
    if (!this.#torn && !this.#failover) await this.#resume().catch(() => undefined);
    this.#ended.resolve();
  }

  async #start(): Promise<void> {
    this.#disks = this.#guest.disks();
    for (const disk of this.#disks) await disk.start('secondary');
    this.#torn = null;
    await this.#resume();
    await this.#channel.send(COLO_MESSAGE.CHECKPOINT_READY);
  }

  async #checkpoint(): Promise<void> {
    const channel = this.#channel;
    const guest = this.#guest;

    const networks = guest.networks();
    for (const net of networks) net.stopping?.('secondary');
    await guest.pause();
    const marks = [...this.#disks, ...networks].flatMap((participant) => participant.stopped('secondary'));
    await channel.send(COLO_MESSAGE.CHECKPOINT_REPLY);
    await channel.sendMarks(marks);

    await channel.expect(COLO_MESSAGE.VMSTATE_SEND);
    const peerRuns = this.#now();
    const snapshot = await channel.receiveState(guest.engine.ramBytes);
    const bytes = snapshot.ram.byteLength + snapshot.device.byteLength;
    const peerMarks = await channel.receiveMarks();
    const heldOutput = await channel.receiveHeldOutput();

    // A disk that lost something cannot carry this checkpoint; the previous state is still whole, say no in time.
    for (const disk of this.#disks) {
      const failed = disk.error();
      if (!failed) continue;
      await channel.sendFailure(failed.message);
      throw failed;
    }

    // So does a machine that could not take it.
    try {
      await guest.engine.prepareLoad?.();
    } catch (error) {
      await channel.sendFailure(messageOf(error));
      throw error;
    }

    // The point of no return. A peer that died just now cannot be told, and need not be.
    const received = performance.now();
    const told = channel.send(COLO_MESSAGE.VMSTATE_RECEIVED).catch(() => undefined);
    this.#torn = 'loading';
    try {
      await Promise.all(networks.map(async (net) => net.peerMarks?.('secondary', peerMarks)));
      for (const net of networks) net.peerHeldOutput?.(heldOutput);
      await guest.engine.load([snapshot], () => this.#now() - peerRuns);
      for (const disk of this.#disks) await disk.commit('secondary');
      for (const net of networks) await net.commit('secondary');
      this.#torn = null;
    } catch (cause) {
      this.#torn = cause instanceof Error ? cause : new ColoError(String(cause));
      await channel.sendFailure(this.#torn.message).catch(() => undefined);
      throw this.#torn;
    }
    if (!this.#failover) await this.#resume(this.#now() - peerRuns);
    this.#hooks.onLoaded?.({
      sequence: ++this.#sequence,
      loadMs: performance.now() - received,
      pages: snapshot.pages,
      bytes,
    });
    await told;
    await channel.send(COLO_MESSAGE.VMSTATE_LOADED);
  }

  async #resume(lateMs = 0): Promise<void> {
    await this.#guest.resume(lateMs);
    for (const net of this.#guest.networks()) net.resumed?.('secondary');
  }
}
