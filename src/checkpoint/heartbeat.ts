/**
 * The heartbeat of a pair on its checkpoint channel: says at an interval that this side lives, and tells when nothing
 * at all has come from the peer for longer than the patience, and when it is heard again. Whatever comes counts, also
 * a piece of a large state. Nothing is torn down by silence: who goes on alone is for a manager to decide.
 *
 * Each beat says too whether its sender hears the peer: who has not been heard for half of the patience knows it, if it
 * hears at all, before anybody can take over from it (primary.ts holds its output then).
 *
 * A process that stood still itself (SIGSTOP, no CPU) is no witness of its peer's silence. Times in which it did not
 * look are not counted, the peer gets half of the patience anew, and its socket is read once more before it is accused.
 * What to send, and on which socket, is channel.ts's; the clock is monotonic.
 */
import { afterLook } from '../base/patience.ts';

export interface HeartbeatSettings {
  readonly intervalMs: number;
  /** 0: the peer's silence is not told. */
  readonly patienceMs: number;
}

const DEFAULT_INTERVAL_MS = 100;
const DEFAULT_PATIENCE_MS = 400;
export const DEFAULT_HEARTBEAT: HeartbeatSettings = {
  intervalMs: DEFAULT_INTERVAL_MS,
  patienceMs: DEFAULT_PATIENCE_MS,
};
export const MIN_INTERVAL_MS = 10;
export const MAX_INTERVAL_MS = 60_000;
export const MAX_PATIENCE_MS = 600_000;

/** Times are since the peer was last heard. */
export interface HeartbeatHooks {
  onSilent(silentMs: number): void;
  onBack(silentMs: number): void;
  /** The peer does not hear this side any more, or does again. */
  onDeafPeer?(isDeaf: boolean): void;
}

export interface HeartbeatWire {
  /** Sends a beat; false when it cannot go now, in the middle of a message or behind bytes that the peer does not take. */
  beat(isDeaf: boolean): boolean;
  /** False while bytes of the peer may wait because this side does not read on. */
  isListening(): boolean;
}

export interface HeartbeatTimers {
  /** Monotonic milliseconds. */
  now(): number;
  /** Returns what ends it. */
  every(ms: number, act: () => void): () => void;
  /** Calls back when the sockets have been looked at once more. Returns what ends it. */
  afterLook(act: () => void): () => void;
}

export interface HeartbeatStatus extends HeartbeatSettings {
  readonly lastHeardMs: number;
  readonly isSilent: boolean;
}

/** So often within an interval and within the patience it is looked at both. */
const LOOKS_AN_INTERVAL = 2;
const LOOKS_A_PATIENCE = 8;
const SHORTEST_LOOK_MS = 5;
const LONGEST_LOOK_MS = 1_000;
/** A look that is later than this, besides one look's time, tells that this process stood still. */
const LATE_MS = 20;

export class Heartbeat {
  readonly #wire: HeartbeatWire;
  readonly #hooks: HeartbeatHooks;
  readonly #timers: HeartbeatTimers;
  #settings: HeartbeatSettings;
  /** As the peer's beats say; until one has come, ours. */
  #peerIntervalMs: number | null = null;
  #lookMs = 0;
  #lastLook = 0;
  #lastBeat = 0;
  #heardAt = 0;
  /** Of the time since then, what this process stood still. */
  #excusedMs = 0;
  #isSilent = false;
  #isPeerDeaf = false;
  #endLooks: (() => void) | null = null;
  #endLastLook: (() => void) | null = null;

  constructor(
    settings: HeartbeatSettings,
    wire: HeartbeatWire,
    hooks: HeartbeatHooks,
    timers: HeartbeatTimers = REAL_TIMERS,
  ) {
    this.#settings = settings;
    this.#wire = wire;
    this.#hooks = hooks;
    this.#timers = timers;
  }

  /** Both sides know each other now. */
  start(): void {
    this.#heardAt = this.#timers.now();
    this.#wire.beat(false);
    this.#lastBeat = this.#heardAt;
    this.#arm();
  }

  /** For good. */
  stop(): void {
    this.#endLooks?.();
    this.#endLastLook?.();
    this.#endLooks = this.#endLastLook = null;
  }

  /** From now on. */
  set(settings: HeartbeatSettings): void {
    this.#settings = settings;
    if (this.#endLooks !== null) this.#arm();
  }

  /** Bytes have come. */
  heard(): void {
    const now = this.#timers.now();
    const silentMs = now - this.#heardAt;
    this.#heardAt = now;
    this.#excusedMs = 0;
    if (!this.#isSilent) return;
    this.#isSilent = false;
    this.#hooks.onBack(silentMs);
  }

  /** A beat: one who beats seldom is not silent in between. */
  peerSays(intervalMs: number, isDeaf: boolean): void {
    this.#peerIntervalMs = Math.min(intervalMs, MAX_INTERVAL_MS);
    if (isDeaf === this.#isPeerDeaf) return;
    this.#isPeerDeaf = isDeaf;
    this.#hooks.onDeafPeer?.(isDeaf);
  }

  status(): HeartbeatStatus {
    const lastHeardMs = this.#timers.now() - this.#heardAt;
    return { ...this.#settings, lastHeardMs, isSilent: this.#isSilent };
  }

  #arm(): void {
    const { intervalMs, patienceMs } = this.#settings;
    const wanted = Math.min(
      intervalMs / LOOKS_AN_INTERVAL,
      patienceMs === 0 ? Infinity : patienceMs / LOOKS_A_PATIENCE,
    );
    this.#lookMs = Math.min(Math.max(Math.floor(wanted), SHORTEST_LOOK_MS), LONGEST_LOOK_MS);
    this.#lastLook = this.#timers.now();
    this.#endLooks?.();
    this.#endLooks = this.#timers.every(this.#lookMs, this.#look);
  }

  /** The silence that ends the patience; a beat may be late by as much as there is between two. */
  get #limitMs(): number {
    return Math.max(this.#settings.patienceMs, 2 * (this.#peerIntervalMs ?? this.#settings.intervalMs));
  }

  readonly #look = (): void => {
    const now = this.#timers.now();
    const lateMs = now - this.#lastLook - this.#lookMs;
    this.#lastLook = now;
    if (lateMs > this.#lookMs + LATE_MS) this.#stoodStill(now, lateMs);
    const isDeaf =
      this.#settings.patienceMs > 0 && now - this.#heardAt - this.#excusedMs >= this.#limitMs / 2;
    if (now - this.#lastBeat >= this.#settings.intervalMs - this.#lookMs / 2 && this.#wire.beat(isDeaf)) {
      this.#lastBeat = now;
    }
    if (!this.#wire.isListening()) {
      this.#heardAt = now;
      this.#excusedMs = 0;
    }
    if (this.#settings.patienceMs === 0 || this.#isSilent || this.#endLastLook !== null) return;
    if (now - this.#heardAt - this.#excusedMs >= this.#limitMs) {
      this.#endLastLook = this.#timers.afterLook(this.#accuse);
    }
  };

  #stoodStill(now: number, lateMs: number): void {
    const isFirst = this.#excusedMs === 0;
    this.#excusedMs += lateMs;
    // Only once in one silence: a process that hardly gets any CPU still comes to an end.
    if (isFirst) this.#excusedMs = Math.max(this.#excusedMs, now - this.#heardAt - this.#limitMs / 2);
  }

  readonly #accuse = (): void => {
    this.#endLastLook = null;
    const silentMs = this.#timers.now() - this.#heardAt;
    if (this.#isSilent || silentMs - this.#excusedMs < this.#limitMs) return;
    this.#isSilent = true;
    this.#hooks.onSilent(silentMs);
  };
}

const REAL_TIMERS: HeartbeatTimers = {
  now: () => performance.now(),
  every: (ms, act) => {
    const timer = setInterval(act, ms);
    return () => clearInterval(timer);
  },
  afterLook,
};
