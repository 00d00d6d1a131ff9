/**
 * filter-mirror: copies each packet to `outdev` and lets the original pass. A peer that is slow or absent loses
 * copies and never holds up the guest (QEMU's writes synchronously and stalls its main loop). On the primary, its
 * mark says how much of the guest's input the secondary has been sent when the guest stood still.
 * Facts: docs/qemu-behaviour.md 2.4 (QEMU net/filter-mirror.c).
 */
import { loggerFor } from '../../base/logger.ts';
import type { CheckpointParticipant, Role, StreamMark } from '../../base/participant.ts';
import type { Chardev } from '../../chardev/chardev.ts';
import type { FilterEvent, FilterHost, FilterQueue, FilterTraffic, NetFilter } from '../filter.ts';
import { FrameOutput, RateLimitedWarning } from '../frame-output.ts';

export interface MirrorOptions {
  readonly queue: FilterQueue;
  readonly enabled: boolean;
  readonly outdev: Chardev;
  readonly vnetHdrSupport: boolean;
}

export class MirrorFilter implements NetFilter, CheckpointParticipant {
  readonly typeName = 'filter-mirror';
  readonly id: string;
  queue: FilterQueue;
  enabled: boolean;
  readonly participant: CheckpointParticipant = this;
  readonly #output: FrameOutput;
  readonly #vnetHdrSupport: boolean;
  readonly #warning = new RateLimitedWarning(loggerFor('filter-mirror'));
  #host: FilterHost | null = null;
  #closed = false;

  /** Takes `outdev`. Throws ChardevInUseError. */
  constructor(id: string, options: MirrorOptions) {
    this.id = id;
    this.queue = options.queue;
    this.enabled = options.enabled;
    this.#vnetHdrSupport = options.vnetHdrSupport;
    this.#output = new FrameOutput(options.outdev, options.vnetHdrSupport);
    this.#output.attach(`filter-mirror ${id}`);
  }

  get participantName(): string {
    return this.id;
  }

  /** Copies sent and copies lost since the start. */
  get stats(): { readonly mirrored: number; readonly lost: number } {
    return { mirrored: this.#output.written, lost: this.#output.lost };
  }

  get traffic(): FilterTraffic {
    const { written, writtenBytes, lost } = this.#output;
    return { framesOut: written, bytesOut: writtenBytes, framesLost: lost, framesIn: 0, bytesIn: 0 };
  }

  attached(host: FilterHost): void {
    this.#host = host;
  }

  receive(packet: Uint8Array): boolean {
    if (!this.#closed && packet.length > 0 && !this.#output.write(packet, this.#host?.vnetHeaderBytes ?? 0)) {
      const why = this.#output.chardev.connected ? 'its peer does not read' : 'no peer is connected';
      this.#warning.warn(`filter-mirror '${this.id}': a copy was lost, ${why}`);
    }
    return false;
  }

  handleEvent(event: FilterEvent): void {
    if (event === 'failover') this.enabled = false;
  }

  properties(): Record<string, unknown> {
    return {
      netdev: this.#host?.netdevId ?? '',
      queue: this.queue,
      status: this.enabled ? 'on' : 'off',
      outdev: this.#output.chardev.id,
      vnet_hdr_support: this.#vnetHdrSupport,
    };
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#output.detach();
  }

  start(): Promise<void> {
    return Promise.resolve();
  }

  stopped(role: Role): StreamMark[] {
    return role === 'primary' ? this.#output.marks() : [];
  }

  commit(): Promise<void> {
    return Promise.resolve();
  }

  /** A lost copy is not an error: the two guests then differ, and the comparer asks for a checkpoint. */
  error(): Error | null {
    return null;
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }
}
