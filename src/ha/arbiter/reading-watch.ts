/**
 * A watch for arbiters that cannot tell of changes: reads now and then. A hint and no more; a read that fails is
 * passed over in silence, since whoever depends on the arbiter finds out by asking it.
 */
import type { ArbiterRecord } from './arbiter.ts';

/** VMs watched at once by one arbiter's client. */
const MAX_WATCHED = 4096;

interface Watched {
  readonly callbacks: Set<(record: ArbiterRecord | null) => void>;
  last: string | null | undefined;
}

export class ReadingWatch {
  readonly #read: (vm: string) => Promise<ArbiterRecord | null>;
  readonly #everyMs: number;
  readonly #watched = new Map<string, Watched>();
  #timer: NodeJS.Timeout | null = null;
  #isReading = false;

  constructor(read: (vm: string) => Promise<ArbiterRecord | null>, everyMs: number) {
    this.#read = read;
    this.#everyMs = everyMs;
  }

  /** Beyond MAX_WATCHED nothing is told: a hint may be missing. */
  add(vm: string, onChange: (record: ArbiterRecord | null) => void): () => void {
    if (this.#watched.size >= MAX_WATCHED && !this.#watched.has(vm)) return () => undefined;
    const watched = this.#watched.get(vm) ?? { callbacks: new Set(), last: undefined };
    watched.callbacks.add(onChange);
    this.#watched.set(vm, watched);
    this.#timer ??= setInterval(() => void this.#look(), this.#everyMs).unref();
    void this.#look();
    return () => {
      watched.callbacks.delete(onChange);
      if (watched.callbacks.size === 0) this.#watched.delete(vm);
      if (this.#watched.size === 0) this.#stop();
    };
  }

  close(): void {
    this.#watched.clear();
    this.#stop();
  }

  #stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }

  async #look(): Promise<void> {
    if (this.#isReading) return;
    this.#isReading = true;
    try {
      for (const [vm, watched] of this.#watched) {
        const record = await this.#read(vm).catch(() => undefined);
        if (record === undefined) continue;
        const now = record && `${record.epoch} ${record.nonce}`;
        const isFirst = watched.last === undefined;
        const hasChanged = now !== watched.last;
        watched.last = now;
        if (hasChanged && !isFirst) for (const tell of watched.callbacks) tell(record);
      }
    } finally {
      this.#isReading = false;
    }
  }
}
