/**
 * The contract of a network filter, and of the netdev it sits on (QEMU include/net/filter.h, NetFilterClass).
 *
 * Directions are named from the netdev: `tx` is sent by the netdev (network → guest), `rx` is to be received by it
 * (guest → network). A tx packet walks the chain head → tail, an rx packet tail → head.
 *
 * Packets are views that are valid during the call only: whoever keeps one copies it. A filter that changes a packet
 * works on its own buffer and passes that on.
 */
import type { CheckpointParticipant } from '../base/participant.ts';

export type Direction = 'tx' | 'rx';
export type FilterQueue = Direction | 'all';
export type FilterEvent = 'checkpoint' | 'failover';

/** What a filter has written to its outdev and taken from its indev since it was made; bytes are the frames' own. */
export interface FilterTraffic {
  readonly framesOut: number;
  readonly bytesOut: number;
  /** Not written: nobody read, or nobody was there. */
  readonly framesLost: number;
  readonly framesIn: number;
  readonly bytesIn: number;
}

/** The chain as a filter sees it. */
export interface FilterHost {
  /** Sends `packet` on from behind `from` in `direction`, to the next filter or to the receiver. */
  passOn(from: NetFilter, packet: Uint8Array, direction: Direction): void;
  readonly netdevId: string;
  /** Length of the virtio-net header in front of each packet (0 on engines without offloads). */
  readonly vnetHeaderBytes: number;
}

export interface NetFilter {
  readonly id: string;
  /** QOM type name, e.g. `filter-mirror`. */
  readonly typeName: string;
  queue: FilterQueue;
  /** `status=off` makes the chain skip the filter. */
  enabled: boolean;
  /** Called once, when it has been put into the chain. */
  attached(host: FilterHost): void;
  /** True: the filter took the packet (and the chain stops here); false: the packet goes on. Never throws. */
  receive(packet: Uint8Array, direction: Direction): boolean;
  /** CHECKPOINT: a checkpoint was loaded on this side; FAILOVER: this side goes on alone. */
  handleEvent(event: FilterEvent): void;
  /** Properties as `qom-get` shows them. */
  properties(): Record<string, unknown>;
  /** Present when it has chardevs. */
  readonly traffic?: FilterTraffic;
  /** Present when the filter takes part in checkpoints (redirectors, mirrors, the comparer). */
  readonly participant?: CheckpointParticipant;
  close(): void;
  /** Resolves when what `close` began is done; absent where nothing is left to do. */
  readonly finished?: Promise<void>;
}
