/**
 * filter-rewriter: makes a secondary guest's TCP sequence numbers those that the client knows from the primary, in both
 * directions, so that its packets can be compared with the primary's and its connections survive a failover. IPv4 and
 * IPv6, with and without VLAN tags; what is no whole TCP header (fragments, other protocols) passes, but for ICMP errors
 * about such a connection (icmp-quote.ts) and the answers to a DHCP client (dhcp-mapping.ts).
 * Facts: docs/qemu-behaviour.md 4 (QEMU net/filter-rewriter.c). Mended here: SACK blocks and timestamps are rewritten,
 * connections that the guest opens are mapped too, the end of a connection is followed in the right numbers, a full table
 * gives up one entry instead of all, checksums are updated where the TCP header really is.
 *
 * After a checkpoint the guest has the primary's numbers: every mapping is forgotten, and replaced by those that the
 * primary's own rewriter still keeps (mapping-marks.ts). After a failover no new connection is mapped: its numbers are
 * the guest's own.
 *
 * The numbers of a connection that was open at the last checkpoint are right as they are, its timestamps need not be: the
 * secondary's guest goes on from the checkpoint later than the primary's did, and where its clock lags (an engine that
 * does not make up for it), a client drops what seems to come from the past (RFC 7323 5). So connections with timestamps
 * are followed too, and moved by that lag.
 */
import type { CheckpointParticipant, Role, StreamMark } from '../../base/participant.ts';
import type { Direction, FilterEvent, FilterHost, FilterQueue, NetFilter } from '../filter.ts';
import { FlowKey } from '../flow-key.ts';
import { FlowTable, MAX_FLOWS } from '../flow-table.ts';
import { MAX_FRAME_BYTES } from '../framing.ts';
import { PacketView, TCP_FLAG, u32 } from '../packet.ts';
import { DhcpMapping, writeXid } from './dhcp-mapping.ts';
import { QuotedSegment } from './icmp-quote.ts';
import { decodeMappings, encodeMappings } from './mapping-marks.ts';
import { NO_STAMP, TcpMapping } from './tcp-mapping.ts';
import { isUnnumberedReset, moveAcknowledgment, moveSequence, timestampAt } from './tcp-rewrite.ts';

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
  /** Those of the table that have ended, the first to end first. */
  readonly #closed = new Set<TcpMapping>();
  readonly #view = new PacketView();
  readonly #reversed = new FlowKey();
  readonly #quoted = new QuotedSegment();
  readonly #dhcp = new DhcpMapping();
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
    if (!view.isTcp) {
      if (direction === 'tx') return this.#receiveLease(host, packet) || this.#receiveError(host, packet);
      this.#dhcp.outgoing(packet, view, this.#failoverMode);
      return false;
    }
    const stampAt = timestampAt(packet, view);
    return direction === 'tx'
      ? this.#receiveIncoming(host, packet, stampAt)
      : this.#receiveOutgoing(host, packet, stampAt);
  }

  handleEvent(event: FilterEvent): void {
    if (event === 'failover') this.#failoverMode = true;
    else if (!this.#isDriven) this.#forget();
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
    this.#forget();
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
      this.#forget();
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

  /** Client → guest. */
  #receiveIncoming(host: FilterHost, packet: Uint8Array, stampAt: number): boolean {
    const view = this.#view;
    const hasAck = (view.tcpFlags & TCP_FLAG.ACK) !== 0;
    // Without an ACK the echo means nothing.
    const echoAt = hasAck && stampAt !== NO_STAMP ? stampAt + 4 : NO_STAMP;
    const mapping =
      this.#table.find(this.#reversed.copyReversed(view.key)) ?? this.#followed(echoAt !== NO_STAMP);
    if (mapping === null) return false;
    mapping.incoming(view, echoAt === NO_STAMP ? NO_STAMP : u32(packet, echoAt));
    this.#noteEnd(mapping);
    const { offset, clock } = mapping;
    if (!hasAck || (offset === 0 && (clock === 0 || echoAt === NO_STAMP))) return false;
    const copy = this.#copy(packet);
    moveAcknowledgment(copy, view, offset, echoAt, clock);
    host.passOn(this, copy, 'tx');
    return true;
  }

  /** Guest → client. */
  #receiveOutgoing(host: FilterHost, packet: Uint8Array, stampAt: number): boolean {
    const view = this.#view;
    const mapping = this.#mappingFor(view);
    if (mapping === null) return false;
    const stamp = stampAt === NO_STAMP ? NO_STAMP : u32(packet, stampAt);
    mapping.outgoing(view, stamp);
    if (stamp !== NO_STAMP && !this.#failoverMode) mapping.followClock(stamp);
    this.#noteEnd(mapping);
    const { offset, clock } = mapping;
    if ((offset === 0 && (clock === 0 || stamp === NO_STAMP)) || isUnnumberedReset(view)) return false;
    const copy = this.#copy(packet);
    moveSequence(copy, view, offset, stampAt, clock);
    host.passOn(this, copy, 'rx');
    return true;
  }

  /** An ICMP error about a segment of the guest's: it knows that by its own number. */
  #receiveError(host: FilterHost, packet: Uint8Array): boolean {
    if (!this.#quoted.find(packet, this.#view)) return false;
    const mapping = this.#table.find(this.#quoted.key);
    if (mapping === null || mapping.offset === 0) return false;
    const copy = this.#copy(packet);
    this.#quoted.move(copy, this.#view, mapping.offset);
    host.passOn(this, copy, 'tx');
    return true;
  }

  /** What a DHCP server answers the primary's guest. */
  #receiveLease(host: FilterHost, packet: Uint8Array): boolean {
    const xid = this.#dhcp.incoming(packet, this.#view);
    if (xid < 0) return false;
    const copy = this.#copy(packet);
    writeXid(copy, this.#view, xid);
    host.passOn(this, copy, 'tx');
    return true;
  }

  #copy(packet: Uint8Array): Uint8Array {
    const scratch = (this.#scratch ??= new Uint8Array(MAX_FRAME_BYTES));
    scratch.set(packet);
    this.stats.rewritten++;
    return scratch.subarray(0, packet.length);
  }

  /** A mapping begins with the guest's SYN: a connection known without one has the client's numbers already. */
  #mappingFor(view: PacketView): TcpMapping | null {
    const found = this.#table.find(view.key);
    if (!(view.tcpFlags & TCP_FLAG.SYN)) return found;
    if (this.#failoverMode) {
      if (found === null || !found.isOtherConnection(view)) return found;
      // A new connection under an old name: its numbers are the guest's own.
      this.#remove(found);
      return null;
    }
    if (found !== null) return found;
    const mapping = new TcpMapping(view.key);
    this.#add(mapping);
    return mapping;
  }

  /** A connection, known without its SYN, of which the client has just repeated a timestamp: see the top. */
  #followed(hasEcho: boolean): TcpMapping | null {
    if (!hasEcho || this.#failoverMode || this.#view.tcpFlags & (TCP_FLAG.SYN | TCP_FLAG.RST)) return null;
    const mapping = new TcpMapping(this.#reversed);
    this.#add(mapping);
    return mapping;
  }

  #noteEnd(mapping: TcpMapping): void {
    if (mapping.isClosed) this.#closed.add(mapping);
    else if (this.#closed.size > 0) this.#closed.delete(mapping);
  }

  /** What a full table gives up: a connection that has ended, or the one that was not used for longest. */
  #add(mapping: TcpMapping): void {
    while (this.#table.size >= this.#maxFlows) {
      const [ended] = this.#closed;
      const given = ended ?? this.#table.oldest;
      if (given === null) break;
      this.#remove(given);
      this.stats.evicted++;
    }
    this.#table.insert(mapping);
  }

  #remove(mapping: TcpMapping): void {
    this.#closed.delete(mapping);
    this.#table.remove(mapping);
  }

  #forget(): void {
    this.#closed.clear();
    this.#dhcp.forget();
    this.#table.clear();
  }
}
