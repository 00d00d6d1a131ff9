/**
 * filter-buffer: holds packets and lets them go together every `interval` microseconds. Bounded: past the limit the
 * newest are dropped. Facts: QEMU net/filter-buffer.c, qapi/qom.json (FilterBufferProperties).
 */
import type { Direction, FilterEvent, FilterHost, FilterQueue, NetFilter } from '../filter.ts';

const MAX_PACKETS = 10_000;
const MAX_BYTES = 16 * 1024 * 1024;

export interface BufferOptions {
  readonly queue: FilterQueue;
  readonly enabled: boolean;
  readonly intervalUs: number;
}

export class BufferFilter implements NetFilter {
  readonly typeName = 'filter-buffer';
  readonly id: string;
  queue: FilterQueue;
  dropped = 0;
  #intervalUs: number;
  #timer: NodeJS.Timeout;
  #enabled: boolean;
  #host: FilterHost | null = null;
  #packets: { readonly packet: Uint8Array; readonly direction: Direction }[] = [];
  #bytes = 0;

  constructor(id: string, options: BufferOptions) {
    this.id = id;
    this.queue = options.queue;
    this.#enabled = options.enabled;
    this.#intervalUs = options.intervalUs;
    this.#timer = this.#arm();
  }

  /** A new one counts from now. */
  set intervalUs(us: number) {
    this.#intervalUs = us;
    clearInterval(this.#timer);
    this.#timer = this.#arm();
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Turned off, it lets go of what it holds. */
  set enabled(on: boolean) {
    this.#enabled = on;
    if (!on) this.release();
  }

  attached(host: FilterHost): void {
    this.#host = host;
  }

  receive(packet: Uint8Array, direction: Direction): boolean {
    if (this.#packets.length >= MAX_PACKETS || this.#bytes + packet.length > MAX_BYTES) {
      this.dropped++;
      return true;
    }
    this.#packets.push({ packet: Buffer.from(packet), direction });
    this.#bytes += packet.length;
    return true;
  }

  /** Lets all go, in order. */
  release(): void {
    const packets = this.#packets;
    this.#packets = [];
    this.#bytes = 0;
    for (const { packet, direction } of packets) this.#host?.passOn(this, packet, direction);
  }

  handleEvent(event: FilterEvent): void {
    if (event === 'failover') this.enabled = false;
  }

  properties(): Record<string, unknown> {
    return {
      netdev: this.#host?.netdevId ?? '',
      queue: this.queue,
      status: this.#enabled ? 'on' : 'off',
      interval: this.#intervalUs,
    };
  }

  /** Lets go of what it holds: it has to be in the chain still. */
  close(): void {
    clearInterval(this.#timer);
    this.release();
  }

  #arm(): NodeJS.Timeout {
    return setInterval(() => this.release(), Math.max(1, this.#intervalUs / 1000));
  }
}
