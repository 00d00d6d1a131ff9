/**
 * Events of one VM on their way to the monitors, with QEMU's rate limits (monitor/monitor.c,
 * monitor_qapi_event_conf): the first of its kind goes at once, further ones within a second are merged into the
 * latest.
 */
export interface VmEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly timestamp: { readonly seconds: number; readonly microseconds: number };
}

const LIMIT_MS = 1000;
/** Event name → the member of its data that tells instances apart (QUORUM_REPORT_BAD: per node). COLO_COMPARE_REQUEST is ours. */
const LIMITED = new Map<string, string | null>([
  ['QUORUM_REPORT_BAD', 'node-name'],
  ['QUORUM_FAILURE', null],
  ['COLO_COMPARE_REQUEST', 'id'],
]);

export class VmEvents {
  readonly #listeners = new Set<(event: VmEvent) => void>();
  readonly #limited = new Map<string, { timer: NodeJS.Timeout; pending: VmEvent | null }>();

  /** Adds a listener; returns its removal. */
  subscribe(listener: (event: VmEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit(event: string, data?: Record<string, unknown>): void {
    const now = Date.now() * 1000;
    const whole: VmEvent = {
      event,
      ...(data ? { data } : {}),
      timestamp: { seconds: Math.floor(now / 1e6), microseconds: now % 1e6 },
    };
    const by = LIMITED.get(event);
    if (by === undefined) {
      this.#deliver(whole);
      return;
    }
    const key = by === null ? event : `${event} ${String(data?.[by])}`;
    const open = this.#limited.get(key);
    if (open) {
      open.pending = whole;
      return;
    }
    this.#deliver(whole);
    this.#openWindow(key);
  }

  /** An event that has its time and its rate from elsewhere. */
  relay(event: VmEvent): void {
    this.#deliver(event);
  }

  close(): void {
    for (const { timer } of this.#limited.values()) clearTimeout(timer);
    this.#limited.clear();
    this.#listeners.clear();
  }

  #openWindow(key: string): void {
    const timer = setTimeout(() => {
      const pending = this.#limited.get(key)?.pending;
      this.#limited.delete(key);
      if (!pending) return;
      this.#deliver(pending);
      this.#openWindow(key);
    }, LIMIT_MS);
    // A window that is still open must not keep an ending process.
    timer.unref();
    this.#limited.set(key, { timer, pending: null });
  }

  #deliver(event: VmEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
