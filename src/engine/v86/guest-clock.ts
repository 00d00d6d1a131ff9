/**
 * The guest's clock: stands still while the guest is paused, travels in snapshots, and so is the same on both sides
 * whatever the hosts' clocks say. Every time that v86 keeps (PIT, APIC, ACPI timer, TSC) is measured by it.
 *
 * The real time clock is `epochBaseMs` plus this clock: it goes on from the primary's after a takeover, and never jumps
 * against the guest's own system clock.
 */

export class GuestClock {
  #baseMs = 0;
  #startedAt: number | null = null;
  #override: number | null = null;
  /** Wall time (ms since 1970) at guest time 0. */
  epochBaseMs: number;
  readonly #hostNow: () => number;

  constructor(hostNow: () => number, epochBaseMs: number) {
    this.#hostNow = hostNow;
    this.epochBaseMs = epochBaseMs;
  }

  /** Milliseconds, with a fraction. A property, so that v86 can call it without `this`. */
  readonly now = (): number => {
    if (this.#override !== null) return this.#override;
    return this.#startedAt === null ? this.#baseMs : this.#baseMs + (this.#hostNow() - this.#startedAt);
  };

  /** The guest's wall clock, ms since 1970. */
  readonly epochNow = (): number => this.epochBaseMs + this.now();

  start(): void {
    this.#startedAt ??= this.#hostNow();
  }

  stop(): void {
    this.#baseMs = this.now();
    this.#startedAt = null;
  }

  /** Moves the clock, forwards or back. Only while it stands. */
  set(ms: number): void {
    this.#baseMs = ms;
  }

  /** Runs `section` with the clock showing `ms`. */
  at<T>(ms: number, section: () => T): T {
    this.#override = ms;
    try {
      return section();
    } finally {
      this.#override = null;
    }
  }
}
