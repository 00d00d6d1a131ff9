/**
 * Which port a MAC address was last heard on. An address that speaks on another port moves there at once, which is
 * what makes one announcement (gratuitous ARP, RARP) after a failover enough.
 *
 * Bounded per port and not as a whole: a client that invents source addresses pushes out its own, never those of its
 * neighbours; the number of ports is bounded by the switch. Ageing counts sweeps instead of reading a clock for each
 * frame; the owner calls `sweep` at a fixed interval.
 */

/** Addresses remembered for one port. */
export const MAX_MACS_PER_PORT = 1024;

interface Entry<Port> {
  port: Port;
  /** The sweep during which it was last heard. */
  era: number;
}

/** What `learn` found. */
export type Learned = 'known' | 'new' | 'moved';

export class MacTable<Port> {
  readonly #entries = new Map<number, Entry<Port>>();
  readonly #byPort = new Map<Port, Set<number>>();
  readonly #maxAgeSweeps: number;
  #era = 0;

  /** An address is forgotten at the `maxAgeSweeps`-th sweep after it was last heard. */
  constructor(maxAgeSweeps: number) {
    this.#maxAgeSweeps = maxAgeSweeps;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** `mac` was heard on `port`. */
  learn(mac: number, port: Port): Learned {
    const entry = this.#entries.get(mac);
    if (entry?.port === port) {
      entry.era = this.#era;
      return 'known';
    }
    if (entry) {
      this.#macsOf(entry.port).delete(mac);
      entry.port = port;
      entry.era = this.#era;
    } else {
      this.#entries.set(mac, { port, era: this.#era });
    }
    const macs = this.#macsOf(port);
    if (macs.size >= MAX_MACS_PER_PORT) {
      // A Set iterates in order of insertion: the first is the one this port has had longest.
      for (const oldest of macs) {
        macs.delete(oldest);
        this.#entries.delete(oldest);
        break;
      }
    }
    macs.add(mac);
    return entry ? 'moved' : 'new';
  }

  /** The port of `mac`, or undefined when it is not known. */
  lookup(mac: number): Port | undefined {
    return this.#entries.get(mac)?.port;
  }

  /** Forgets a port and returns the addresses that were known on it. */
  forgetPort(port: Port): number[] {
    const macs = [...(this.#byPort.get(port) ?? [])];
    this.#byPort.delete(port);
    for (const mac of macs) this.#entries.delete(mac);
    return macs;
  }

  /** One interval has passed: forgets what was silent for too long. */
  sweep(): void {
    this.#era++;
    for (const [mac, entry] of this.#entries) {
      if (this.#era - entry.era < this.#maxAgeSweeps) continue;
      this.#entries.delete(mac);
      this.#byPort.get(entry.port)?.delete(mac);
    }
  }

  #macsOf(port: Port): Set<number> {
    let macs = this.#byPort.get(port);
    if (!macs) this.#byPort.set(port, (macs = new Set()));
    return macs;
  }
}
