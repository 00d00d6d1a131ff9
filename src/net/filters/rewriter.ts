/**
 * filter-rewriter: makes a secondary guest's TCP sequence numbers those that the client knows from the primary, in both
 * directions, so that its packets can be compared with the primary's and its connections survive a failover.
 * Facts: docs/qemu-behaviour.md 4 (QEMU net/filter-rewriter.c). Mended here: SACK blocks are rewritten, connections that
 * the guest opens are mapped too, the end of a connection is followed in the right numbers, a full table gives up its
 * oldest entry instead of all, checksums are updated where the TCP header really is.
 *
 * After a checkpoint the guest has the primary's numbers: every mapping is forgotten, and replaced by those that the
 * primary's own rewriter still keeps (mapping-marks.ts). After a failover no new connection is mapped: its numbers are
 * the guest's own. IPv6 and VLAN frames pass, as they pass the comparer.
 */
import type { CheckpointParticipant, Role, StreamMark } from '../../base/participant.ts';
import { readTcpChecksum, updateChecksum, writeTcpChecksum } from '../checksum.ts';
import type { Direction, FilterEvent, FilterHost, FilterQueue, NetFilter } from '../filter.ts';
import { FlowKey } from '../flow-key.ts';
import { FlowTable, MAX_FLOWS } from '../flow-table.ts';
import { MAX_FRAME_BYTES } from '../framing.ts';
import { PacketView, TCP_FLAG, putU32, u32 } from '../packet.ts';
import { decodeMappings, encodeMappings } from './mapping-marks.ts';
import { TcpMapping } from './tcp-mapping.ts';

const TCP_HEADER_BYTES = 20;
const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_SACK = 5;
/** virtio_net_hdr.flags: the checksum field holds the pseudo header's sum only, which no rewriting changes. */
const VNET_NEEDS_CSUM = 1;

export interface RewriterOptions {
  readonly queue: FilterQueue;
  readonly enabled: boolean;
  readonly vnetHdrSupport: boolean;
  readonly maxFlows?: number;
}

export interface RewriterStats {
  rewritten: number;
  evicted: number;
}

export class RewriterFilter implements NetFilter, CheckpointParticipant {
  readonly typeName = 'filter-rewriter';
  readonly id: string;
  readonly queue: FilterQueue;
  enabled: boolean;
  readonly participant: CheckpointParticipant = this;
  readonly stats: RewriterStats = { rewritten: 0, evicted: 0 };
  readonly #vnetHdrSupport: boolean;
  readonly #maxFlows: number;
  readonly #table = new FlowTable<TcpMapping>();
  readonly #view = new PacketView();
  readonly #reversed = new FlowKey();
  #scratch: Uint8Array | null = null;
  #host: FilterHost | null = null;
  #failoverMode = false;
  /** Checkpoints come through the participant's verbs, so the CHECKPOINT event has nothing to add. */
  #isDriven = false;
  /** What the primary's rewriter maps, until the checkpoint it came with is loaded. */
  #pending: TcpMapping[] = [];

  constructor(id: string, options: RewriterOptions) {
    this.id = id;
    this.queue = options.queue;
    this.enabled = options.enabled;
    this.#vnetHdrSupport = options.vnetHdrSupport;
    this.#maxFlows = options.maxFlows ?? MAX_FLOWS;
  }

  get participantName(): string {
    return this.id;
  }

  /** Connections that are followed. */
  get flows(): number {
    return this.#table.size;
  }

  attached(host: FilterHost): void {
    this.#host = host;
  }

  receive(packet: Uint8Array, direction: Direction): boolean {
    const host = this.#host;
    if (host === null || packet.length > MAX_FRAME_BYTES) return false;
    const view = this.#view;
    view.parse(packet, this.#vnetHdrSupport ? host.vnetHeaderBytes : 0);
    if (!view.isComparable || !view.isTcp) return false;
    const mapping = this.#mappingFor(view, direction);
    if (mapping === null) return false;
    const offset = direction === 'tx' ? mapping.incoming(view) : mapping.outgoing(view);
    if (offset === 0) return false;

    const scratch = (this.#scratch ??= new Uint8Array(MAX_FRAME_BYTES));
    scratch.set(packet);
    const copy = scratch.subarray(0, packet.length);
    if (direction === 'tx') addToAcknowledgment(copy, view, offset);
    else replaceField(copy, view, view.transportAt + 4, (view.sequence - offset) >>> 0);
    this.stats.rewritten++;
    host.passOn(this, copy, direction);
    return true;
  }

  handleEvent(event: FilterEvent): void {
    if (event === 'failover') this.#failoverMode = true;
    else if (!this.#isDriven) this.#table.clear();
  }

  properties(): Record<string, unknown> {
    return {
      netdev: this.#host?.netdevId ?? '',
      queue: this.queue,
      status: this.enabled ? 'on' : 'off',
      vnet_hdr_support: this.#vnetHdrSupport,
    };
  }

  close(): void {
    this.#table.clear();
    this.#pending = [];
  }

  start(role: Role): Promise<void> {
    if (role === 'secondary') this.#failoverMode = false;
    return Promise.resolve();
  }

  stopped(role: Role): StreamMark[] {
    return role === 'primary' ? encodeMappings(this.#host?.netdevId ?? '', this.#table) : [];
  }

  peerMarks(role: Role, marks: readonly StreamMark[]): Promise<void> {
    if (role === 'secondary') {
      this.#isDriven = true;
      this.#pending = decodeMappings(this.#host?.netdevId ?? '', marks);
    }
    return Promise.resolve();
  }

  commit(role: Role): Promise<void> {
    if (role === 'secondary') {
      this.#table.clear();
      for (const mapping of this.#pending) this.#add(mapping);
      this.#pending = [];
    }
    return Promise.resolve();
  }

  resumed(): void {
    this.#pending = [];
  }

  error(): Error | null {
    return null;
  }

  stop(): Promise<void> {
    this.#isDriven = false;
    this.#pending = [];
    return Promise.resolve();
  }

  /** A mapping begins with the guest's SYN: a connection known without one has the client's numbers already. */
  #mappingFor(view: PacketView, direction: Direction): TcpMapping | null {
    if (direction === 'tx') {
      return this.#table.find(this.#reversed.copyReversed(view.key));
    }
    const found = this.#table.find(view.key);
    if (!(view.tcpFlags & TCP_FLAG.SYN)) return found;
    if (this.#failoverMode) {
      if (found === null || !found.isOtherConnection(view)) return found;
      // A new connection under an old name: its numbers are the guest's own.
      this.#table.remove(found);
      return null;
    }
    if (found !== null) return found;
    const mapping = new TcpMapping(view.key);
    this.#add(mapping);
    return mapping;
  }

  #add(mapping: TcpMapping): void {
    while (this.#table.size >= this.#maxFlows && this.#table.oldest !== null) {
      this.#table.remove(this.#table.oldest);
      this.stats.evicted++;
    }
    this.#table.insert(mapping);
  }
}

/** The acknowledgment number and the SACK blocks name bytes that the guest has sent (RFC 2018). */
function addToAcknowledgment(frame: Uint8Array, view: PacketView, offset: number): void {
  const tcp = view.transportAt;
  replaceField(frame, view, tcp + 8, (view.acknowledgment + offset) >>> 0);
  const end = tcp + view.tcpHeaderBytes;
  let at = tcp + TCP_HEADER_BYTES;
  while (at < end) {
    const kind = frame[at]!;
    if (kind === OPTION_END) return;
    if (kind === OPTION_NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? frame[at + 1]! : 0;
    if (length < 2 || at + length > end) return;
    if (kind === OPTION_SACK) {
      for (let edge = at + 2; edge + 4 <= at + length; edge += 4) {
        replaceField(frame, view, edge, (u32(frame, edge) + offset) >>> 0);
      }
    }
    at += length;
  }
}

/** Writes a u32 of the TCP header and brings the checksum along. */
function replaceField(frame: Uint8Array, view: PacketView, at: number, value: number): void {
  const before = u32(frame, at);
  putU32(frame, at, value);
  if (view.start > 0 && frame[0]! & VNET_NEEDS_CSUM) return;
  const isOdd = ((at - view.transportAt) & 1) === 1;
  writeTcpChecksum(frame, view, updateChecksum(readTcpChecksum(frame, view), before, value, isOdd));
}
