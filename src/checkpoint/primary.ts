/**
 * The primary's side of COLO: waits for a reason to checkpoint, takes one, and again. The dialogue of one checkpoint
 * reads top to bottom in `#checkpoint` (QEMU: migration/colo.c, colo_do_checkpoint_transaction), with two differences:
 * the guest goes on as soon as its state has been captured, its output and its forwarded writes held by the
 * participants until the secondary has it; and both sides cut their packet streams at marks, so that no packet of one
 * epoch is compared with one of another.
 *
 * Any failure ends the loop with an error; the guest goes on, its output stays held: going on alone is for the
 * manager to decide (x-colo-lost-heartbeat → `failover`). Not a frame leaves then, nor after this process stood still
 * for a while, until the secondary has answered, nor while the secondary says that it does not hear this side: it may have
 * taken over, or be about to, and a frame from here, even one that it has
 * said too, would draw its clients' packets to this side.
 */
import { Deferred } from '../base/async.ts';
import { ClosedError, ColoError } from '../base/errors.ts';
import type { CheckpointChannel } from './channel.ts';
import { DiskWatch } from './disk-watch.ts';
import type { CheckpointCause, CheckpointRecord, ColoExitReason, ProtectedGuest } from './guest.ts';
import { COLO_MESSAGE } from './messages.ts';
import { MismatchFloor } from './mismatch-floor.ts';

export interface PrimaryHooks {
  /** Emitted once, when the loop ends. */
  onExit(reason: ColoExitReason, error: Error | null): void;
  onCheckpoint?(record: CheckpointRecord): void;
  /** False: from now on nothing of the guest's may leave; what it says waits until true. */
  onHeard?(isHeard: boolean): void;
}

export interface PrimaryOptions {
  /** x-mismatch-run-share, in percent (mismatch-floor.ts). */
  readonly mismatchRunShare?: number;
  /** Monotonic milliseconds, by which the share is measured. */
  readonly now?: () => number;
}

/** How often this process looks whether it stood still, and from how long on it counts. */
const LOOK_MS = 100;
const STOOD_STILL_MS = 1_000;

/** Node's timers count in 32 bits and fire at once beyond. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class ColoPrimary {
  readonly #guest: ProtectedGuest;
  readonly #channel: CheckpointChannel;
  readonly #hooks: PrimaryHooks;
  readonly #disks: DiskWatch;
  #delayMs: number;
  #timer: NodeJS.Timeout | null = null;
  readonly #floor: MismatchFloor;
  readonly #now: () => number;
  /** Requests coalesce into one, as in QEMU. One for a difference may have to wait, and gives way to any other. */
  #wanted: CheckpointCause | null = null;
  #wake: Deferred<void> | null = null;
  #watch: NodeJS.Timeout | null = null;
  #isFailover = false;
  #hasEnded = false;
  /** How often this process stood still, and up to which time the secondary has answered since. */
  #standstills = 0;
  #answeredFor = 0;
  #isPeerDeaf = false;
  #isHeard = true;
  #sequence = 0;
  readonly #ended = new Deferred<void>();

  /** `delayMs`: x-checkpoint-delay, the longest time between two checkpoints. */
  constructor(
    guest: ProtectedGuest,
    channel: CheckpointChannel,
    delayMs: number,
    hooks: PrimaryHooks,
    options: PrimaryOptions = {},
  ) {
    this.#floor = new MismatchFloor(options.mismatchRunShare);
    this.#now = options.now ?? (() => performance.now());
    this.#guest = guest;
    this.#channel = channel;
    this.#delayMs = delayMs;
    this.#hooks = hooks;
    this.#disks = new DiskWatch(channel, () => {
      this.#isHeard = false;
      hooks.onHeard?.(false);
    });
    void channel.closed.then(() => this.#wake?.resolve());
  }

  /** Resolves when the loop has ended, for whatever reason. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** As in QEMU a change asks for a checkpoint at once (colo_checkpoint_delay_set). */
  setDelay(ms: number): void {
    this.#delayMs = ms;
    if (this.#hasEnded) return;
    this.#armTimer();
    this.request('parameter');
  }

  /** From now on; a difference that waits is looked at anew. */
  setMismatchRunShare(percent: number): void {
    this.#floor.share = percent;
    this.#wake?.resolve();
  }

  /** The secondary says so. Nothing leaves before it hears this side again. */
  setPeerDeaf(isDeaf: boolean): void {
    this.#isPeerDeaf = isDeaf;
    this.#tellHeard();
  }

  /** Asks for a checkpoint. Cheap; may be called for every packet. */
  request(cause: CheckpointCause): void {
    if (this.#hasEnded) return;
    if (this.#wanted !== null && (this.#wanted !== 'mismatch' || cause === 'mismatch')) return;
    this.#wanted = cause;
    this.#armTimer();
    this.#wake?.resolve();
  }

  /**
   * This side goes on alone: ends the loop if it has not ended, lets go of what is held, and lets the guest run. Waits
   * for no peer: the channel is broken off first, so whatever the loop was waiting for ends.
   */
  async failover(): Promise<void> {
    this.#isFailover = true;
    this.#disks.stop();
    this.#channel.giveUp(new ClosedError('failover was requested'));
    this.#wake?.resolve();
    const hasEnded = this.#hasEnded;
    await this.#ended.promise;
    if (!hasEnded) return;
    // The loop had given up before: its output has been held since.
    await this.#guest.pause();
    await this.#stopNetworks();
    await this.#guest.resume();
  }

  /**
   * The whole of the primary's COLO: from the stopped guest whose state the secondary has just loaded to the end of
   * protection. Never rejects.
   */
  async run(): Promise<void> {
    let error: Error;
    try {
      await this.#start();
      for (;;) {
        const cause = await this.#nextCause();
        await this.#checkpoint(cause);
      }
    } catch (cause) {
      const known = cause instanceof Error ? cause : new ColoError(String(cause));
      error = await this.#channel.explain(this.#disks.failure ? await this.#channel.closed : known);
    }
    this.#hasEnded = true;
    this.#disks.stop();
    if (!this.#isFailover) this.#hooks.onHeard?.(false);
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#watch) clearInterval(this.#watch);
    this.#channel.giveUp(error);
    // Nothing may be forwarded any more: the secondary may hold either state, and its disk must fit it. Writes that
    // wait at the gate go on, so that the guest can be stopped.
    for (const disk of this.#disks.disks) await quietly(() => disk.stop('primary', true));
    if (this.#isFailover) await quietly(() => this.#guest.pause());
    await this.#stopNetworks();
    const requested = this.#isFailover;
    this.#hooks.onExit(requested ? 'request' : 'error', requested ? null : error);
    await quietly(() => this.#guest.resume());
    this.#ended.resolve();
  }

  async #stopNetworks(): Promise<void> {
    if (this.#isFailover) this.#hooks.onHeard?.(true);
    for (const net of this.#guest.networks()) await quietly(() => net.stop('primary', this.#isFailover));
  }

  async #start(): Promise<void> {
    await this.#channel.expect(COLO_MESSAGE.CHECKPOINT_READY);
    await this.#disks.start(this.#guest.disks());
    await this.#guest.resume();
    for (const net of this.#guest.networks()) net.resumed?.('primary');
    this.#armTimer();
    this.#watchOneself();
  }

  /**
   * Timers come before sockets when a stopped process goes on, so this is known before anything that came meanwhile can
   * make a packet leave.
   */
  #watchOneself(): void {
    let last = performance.now();
    this.#watch = setInterval(() => {
      const now = performance.now();
      if (now - last > STOOD_STILL_MS) {
        this.#standstills++;
        this.#tellHeard();
        this.request('request');
      }
      last = now;
    }, LOOK_MS);
  }

  async #nextCause(): Promise<CheckpointCause> {
    for (;;) {
      const waitMs = this.#waitMs();
      if (waitMs === 0 || this.#channel.failure || this.#isFailover) break;
      const wake = (this.#wake = new Deferred<void>());
      const timer = waitMs === null ? undefined : setTimeout(() => wake.resolve(), Math.ceil(waitMs));
      await wake.promise;
      clearTimeout(timer);
    }
    this.#wake = null;
    this.#checkFailover();
    if (this.#channel.failure) throw this.#channel.failure;
    return this.#wanted ?? 'timer';
  }

  /** Until the next checkpoint may begin, or null: none is wanted, or to be had. */
  #waitMs(): number | null {
    if (this.#wanted === null || this.#disks.failure) return null;
    return this.#wanted === 'mismatch' ? this.#floor.waitMs(this.#now()) : 0;
  }

  async #checkpoint(cause: CheckpointCause): Promise<void> {
    const channel = this.#channel;
    const guest = this.#guest;
    const asked = performance.now();
    const began = this.#now();

    const standstills = this.#standstills;
    await channel.send(COLO_MESSAGE.CHECKPOINT_REQUEST);
    await channel.expect(COLO_MESSAGE.CHECKPOINT_REPLY);
    this.#answered(standstills);
    const peerMarks = await channel.receiveMarks();
    this.#checkFailover();

    const networks = guest.networks();
    const paused = performance.now();
    for (const net of networks) net.stopping?.('primary');
    await guest.pause();
    this.#disks.check();
    const participants = [...this.#disks.disks, ...networks];
    const marks = participants.flatMap((participant) => participant.stopped('primary'));
    const [snapshot] = await Promise.all([
      guest.engine.capture({ full: false }),
      ...networks.map(async (net) => net.peerMarks?.('primary', peerMarks)),
    ]);
    this.#checkFailover();
    await guest.resume();
    for (const net of networks) net.resumed?.('primary');
    const resumed = performance.now();

    // Requests up to here are answered by this checkpoint; what differs from now on needs another one.
    this.#wanted = this.#standstills === this.#answeredFor ? null : 'request';
    // A timer that ran out meanwhile found a request already made.
    if (this.#timer === null) this.#armTimer();
    const bytes = snapshot.ram.byteLength + snapshot.device.byteLength;
    await channel.sendState(snapshot);
    await channel.sendMarks(marks);
    const held = await Promise.all(networks.map(async (net) => (await net.heldOutput?.()) ?? []));
    await channel.sendHeldOutput(held.flat());
    await channel.expect(COLO_MESSAGE.VMSTATE_RECEIVED);
    this.#disks.check();
    // The output commit point: the secondary holds the cause of every packet of the closed epoch.
    for (const net of networks) await net.commit('primary');
    const received = performance.now();
    await channel.expect(COLO_MESSAGE.VMSTATE_LOADED);
    this.#floor.taken(began, this.#now());
    // Only now: the secondary's overlays are empty, so a forwarded write cannot be seen by the secondary's guest.
    for (const disk of this.#disks.disks) await disk.commit('primary');

    this.#hooks.onCheckpoint?.({
      sequence: ++this.#sequence,
      cause,
      atMs: Date.now(),
      pauseMs: resumed - paused,
      heldMs: received - asked,
      totalMs: performance.now() - asked,
      pages: snapshot.pages,
      bytes,
    });
  }

  /** It answered a request that was made after so many standstills: it had not taken over in the last of them. */
  #answered(standstills: number): void {
    if (standstills === this.#answeredFor || standstills !== this.#standstills) return;
    this.#answeredFor = standstills;
    this.#tellHeard();
  }

  #tellHeard(): void {
    if (this.#hasEnded || this.#isFailover) return;
    const isHeard = !this.#isPeerDeaf && !this.#disks.failure && this.#standstills === this.#answeredFor;
    if (isHeard === this.#isHeard) return;
    this.#isHeard = isHeard;
    this.#hooks.onHeard?.(isHeard);
  }

  #checkFailover(): void {
    if (this.#isFailover) throw new ClosedError('failover was requested');
  }

  /** Measured from the last request, as in QEMU. */
  #armTimer(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.request('timer');
      },
      Math.min(this.#delayMs, LONGEST_TIMER_MS),
    );
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
