/**
 * A client and the guests of a pair, as far as their numbers go: every guest has initial sequence numbers and clocks of
 * its own, the client knows one of each. Frames go through the rewriters of both sides, and each has to come out as the
 * frame that the model builds in the numbers of the one it is for, byte by byte.
 */
import assert from 'node:assert/strict';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import type { Carrier } from './carriers.ts';
import { carried, carriedToGuest, options, sack, stamps } from './carriers.ts';
import type { TcpFields } from './frames.ts';

/** What a guest counts from: its initial sequence number, and its clock for this connection. */
interface Base {
  readonly isn: number;
  readonly clock: number;
}

interface Connection {
  readonly port: number;
  readonly carrier: Carrier;
  readonly hasStamps: boolean;
  state: 'closed' | 'synSent' | 'synReceived' | 'open';
  /** Both sides opened: the SYN+ACK is to come although the guest opened. */
  isCrossed: boolean;
  clientIsn: number;
  /** As the client knows the connection. */
  seen: Base;
  /** As the guests count; equal after a checkpoint. */
  primary: Base;
  secondary: Base;
  /** Numbers behind the SYN that either has used. */
  guestSaid: number;
  clientSaid: number;
  /** When the guest first said SYN, and when it said what the client heard last. */
  saidSynAt: number;
  heardAt: number;
  /** The frame of the guest's that may be repeated. */
  last: { at: number; fields: Pick<TcpFields, 'flags' | 'payload'> } | null;
}

/** A VM: its guest's numbers are in the connections, this is the way to it. */
class Side {
  readonly netdev = new Netdev({ id: 'hn0' });
  readonly rewriter: RewriterFilter | null;
  #atGuest: Uint8Array | null = null;
  #atClient: Uint8Array | null = null;

  constructor(hasRewriter: boolean) {
    this.netdev.guest = (frame) => (this.#atGuest = new Uint8Array(frame));
    this.netdev.wire = (frame) => (this.#atClient = new Uint8Array(frame));
    this.rewriter = hasRewriter
      ? new RewriterFilter('rew0', { queue: 'all', enabled: true, vnetHdrSupport: false })
      : null;
    if (this.rewriter !== null) this.netdev.insert(this.rewriter);
  }

  /** Compares what comes out, and says that nothing was rewritten where nothing was to be. */
  passes(direction: 'in' | 'out', given: Uint8Array, expected: Uint8Array, what: string): void {
    const before = this.rewriter?.stats.rewritten ?? 0;
    if (direction === 'in') this.netdev.receiveFromWire(given);
    else this.netdev.sendFromGuest(given);
    const got = direction === 'in' ? this.#atGuest : this.#atClient;
    assert.deepEqual(Buffer.from(got ?? []).toString('hex'), Buffer.from(expected).toString('hex'), what);
    const isSame = Buffer.from(given).equals(expected);
    assert.equal((this.rewriter?.stats.rewritten ?? 0) - before, isSame ? 0 : 1, what);
  }
}

export type Action = readonly [kind: number, which: number, detail: number];
const KINDS = [
  ...[
    'open',
    'proceed',
    'proceed',
    'proceed',
    'say',
    'say',
    'hear',
    'hear',
    'repeat',
    'probe',
    'end',
    'abort',
  ],
  ...['stray', 'checkpoint', 'failover', 'protect'],
] as const;

export class Model {
  readonly log: string[] = [];
  failovers = 0;
  /** Frames that came out moved. */
  moved = 0;
  #time = 1000;
  #random: () => number;
  #primary = new Side(false);
  #secondary: Side | null = new Side(true);
  readonly #connections: Connection[];

  constructor(carriers: readonly Carrier[], random: () => number) {
    this.#random = random;
    this.#connections = carriers.map((carrier, at) => ({
      port: 40_000 + at,
      carrier,
      hasStamps: at % 2 === 0,
      state: 'closed',
      isCrossed: false,
      clientIsn: 0,
      seen: { isn: 0, clock: 0 },
      primary: { isn: 0, clock: 0 },
      secondary: { isn: 0, clock: 0 },
      guestSaid: 0,
      clientSaid: 0,
      saidSynAt: 0,
      heardAt: 0,
      last: null,
    }));
  }

  async run(actions: readonly Action[]): Promise<void> {
    for (const [kind, which, detail] of actions) {
      const connection = this.#connections[which % this.#connections.length]!;
      const name = KINDS[kind % KINDS.length]!;
      this.#time += 7;
      this.log.push(`${name} ${connection.port} ${connection.state}`);
      if (name === 'checkpoint') await this.#checkpoint();
      else if (name === 'failover') this.#failover(detail);
      else if (name === 'protect') await this.#protect();
      else this.#act(name, connection, detail);
    }
    for (const side of [this.#primary, this.#secondary]) this.moved += side?.rewriter?.stats.rewritten ?? 0;
  }

  #act(name: (typeof KINDS)[number], connection: Connection, detail: number): void {
    const isOpen = connection.state === 'open';
    if (name === 'open' && connection.state === 'closed') this.#open(connection, detail);
    else if (name === 'proceed') this.#proceed(connection, detail);
    else if (name === 'say' && isOpen)
      this.#say(connection, { payload: 'x'.repeat(1 + (detail % 9)) }, detail);
    else if (name === 'hear' && isOpen) this.#hear(connection, detail);
    else if (name === 'repeat' && connection.last !== null) this.#repeat(connection);
    else if (name === 'probe' && isOpen) this.#probe(connection, detail);
    else if (name === 'end' && isOpen) this.#end(connection, detail);
    else if (name === 'abort' && isOpen) this.#abort(connection, detail);
    else if (name === 'stray' && isOpen) this.#stray(connection);
  }

  #draw(): number {
    return Math.floor(this.#random() * 2 ** 32) >>> 0;
  }

  #base(): Base {
    return { isn: this.#draw(), clock: this.#draw() };
  }

  #open(connection: Connection, detail: number): void {
    connection.primary = this.#base();
    // Sometimes two guests agree.
    connection.secondary = detail % 5 === 0 ? connection.primary : this.#base();
    connection.seen = connection.primary;
    connection.clientIsn = this.#draw();
    connection.guestSaid = 0;
    connection.clientSaid = 0;
    connection.isCrossed = false;
    connection.saidSynAt = this.#time;
    connection.heardAt = this.#time;
    if (detail % 2 === 0) {
      this.#in(connection, { seq: 0, flags: 'S' });
      connection.state = 'synReceived';
      this.#out(connection, { seq: 0, ack: 1, flags: 'S' });
      connection.last = { at: -1, fields: { flags: 'S' } };
    } else {
      connection.state = 'synSent';
      this.#out(connection, { seq: 0, flags: 'S' });
      connection.last = { at: -1, fields: { flags: 'S' } };
    }
  }

  #proceed(connection: Connection, detail: number): void {
    if (connection.state === 'synSent') {
      if (!connection.isCrossed && detail % 5 === 0) {
        this.#in(connection, { seq: 0, flags: 'S' });
        connection.isCrossed = true;
        this.#out(connection, { seq: 0, ack: 1, flags: 'S' });
        connection.state = 'synReceived';
        return;
      }
      if (detail % 11 === 0) {
        this.#in(connection, { seq: 0, ack: 1, flags: 'R' });
        connection.state = 'closed';
        connection.last = null;
        return;
      }
      this.#in(connection, { seq: 0, ack: 1, flags: 'S' });
    } else if (connection.state === 'synReceived') {
      const flags = connection.isCrossed && detail % 2 === 0 ? 'S' : '';
      this.#in(connection, { seq: flags === 'S' ? 0 : 1, ack: 1, flags });
    } else {
      return;
    }
    connection.state = 'open';
    connection.clientSaid = 1;
    connection.guestSaid = 1;
  }

  #say(connection: Connection, fields: Pick<TcpFields, 'flags' | 'payload'>, detail: number): void {
    const at = connection.guestSaid;
    this.#out(connection, { seq: at, ack: connection.clientSaid, ...fields });
    connection.last = { at, fields };
    connection.guestSaid += (fields.payload?.length ?? 0) + (fields.flags === 'F' ? 1 : 0);
    // Sometimes it is lost behind the rewriter.
    if (detail % 4 !== 0) connection.heardAt = this.#time;
  }

  #hear(connection: Connection, detail: number): void {
    const payload = 'y'.repeat(detail % 6);
    const gap = detail % 3 === 0 ? [connection.guestSaid + 10, connection.guestSaid + 20] : [];
    this.#in(connection, { seq: connection.clientSaid, ack: connection.guestSaid, payload }, gap);
    connection.clientSaid += payload.length;
  }

  #repeat(connection: Connection): void {
    const { at, fields } = connection.last!;
    if (at >= 0) {
      this.#out(connection, { seq: at, ack: connection.clientSaid, ...fields });
    } else if (connection.state === 'synSent') {
      this.#out(connection, { seq: 0, flags: 'S' });
    } else if (connection.state === 'synReceived') {
      this.#out(connection, { seq: 0, ack: 1, flags: 'S' });
    }
  }

  /** Keep-alive and window probes: one number behind; a challenge ACK for the client's. */
  #probe(connection: Connection, detail: number): void {
    if (detail % 2 === 0) this.#in(connection, { seq: connection.clientSaid - 1, ack: connection.guestSaid });
    else this.#out(connection, { seq: connection.guestSaid - 1, ack: connection.clientSaid });
  }

  #end(connection: Connection, detail: number): void {
    const fromClient = (): void => {
      this.#in(connection, { seq: connection.clientSaid, ack: connection.guestSaid, flags: 'F' });
      connection.clientSaid++;
    };
    const fromGuest = (): void => this.#say(connection, { flags: 'F' }, 1);
    if (detail % 2 === 0) fromClient();
    fromGuest();
    if (detail % 2 === 1) fromClient();
    this.#in(connection, { seq: connection.clientSaid, ack: connection.guestSaid });
    this.#out(connection, { seq: connection.guestSaid, ack: connection.clientSaid });
    connection.state = 'closed';
    connection.last = null;
  }

  #abort(connection: Connection, detail: number): void {
    const [seq, ack] = [connection.guestSaid, connection.clientSaid];
    if (detail % 3 === 0) this.#in(connection, { seq: ack, ack: seq, flags: 'R' });
    else this.#out(connection, { seq, flags: 'R', ...(detail % 3 === 1 && { ack }) });
    connection.state = 'closed';
    connection.last = null;
  }

  /** A SYN in the middle: the guest says where it stands, and the connection goes on. */
  #stray(connection: Connection): void {
    this.#in(connection, { seq: connection.clientSaid + 90_000, flags: 'S' });
    this.#out(connection, { seq: connection.guestSaid, ack: connection.clientSaid });
  }

  /** The secondary's guest becomes the primary's, and its rewriter knows what the primary's knows. */
  async #checkpoint(): Promise<void> {
    const secondary = this.#secondary?.rewriter;
    if (!secondary) return;
    const marks = this.#primary.rewriter?.stopped('primary') ?? [];
    await secondary.peerMarks('secondary', marks);
    await secondary.commit('secondary');
    secondary.resumed();
    for (const connection of this.#connections) connection.secondary = connection.primary;
  }

  #failover(detail: number): void {
    if (this.#secondary === null) return;
    this.#secondary.netdev.notify('failover');
    this.moved += this.#primary.rewriter?.stats.rewritten ?? 0;
    this.#primary = this.#secondary;
    this.#secondary = null;
    this.failovers++;
    for (const connection of this.#connections) {
      connection.primary = connection.secondary;
      // The primary's SYN may never have left: then the client hears the survivor's.
      const isUnheard = connection.state === 'synSent' || connection.state === 'synReceived';
      if (isUnheard && detail % 2 === 0) connection.seen = connection.primary;
    }
  }

  async #protect(): Promise<void> {
    if (this.#secondary !== null) return;
    this.#secondary = new Side(true);
    await this.#secondary.rewriter!.start('secondary');
    await this.#checkpoint();
  }

  /** From the guests, in their numbers relative to the SYN; the client is to hear its own. */
  #out(connection: Connection, fields: TcpFields): void {
    const { clientIsn, seen, carrier, port } = connection;
    // Until the client has answered, nobody knows by which number.
    const isHandshake = connection.state !== 'open';
    const build = (base: Base): Uint8Array =>
      carried(carrier, {
        ...fields,
        destinationPort: port,
        seq: (base.isn + fields.seq!) >>> 0,
        ...(fields.ack !== undefined && { ack: (clientIsn + fields.ack) >>> 0 }),
        ...(connection.hasStamps && { options: options(...stamps((this.#time + base.clock) >>> 0, 5)) }),
      });
    const what = this.log.slice(-12).join('\n');
    const say = (side: Side, base: Base): void =>
      side.passes('out', build(base), build(isHandshake ? base : seen), what);
    say(this.#primary, connection.primary);
    if (this.#secondary !== null) say(this.#secondary, connection.secondary);
  }

  /** From the client; each guest is to hear it in its own numbers. */
  #in(connection: Connection, fields: TcpFields, blocks: readonly number[] = []): void {
    const { clientIsn, seen, carrier, port, hasStamps } = connection;
    const build = (base: Base): Uint8Array => {
      const edges = blocks.map((edge) => (base.isn + edge) >>> 0);
      const heard = connection.state === 'open' ? connection.heardAt : connection.saidSynAt;
      const echo = fields.ack === undefined ? 0 : (heard + base.clock) >>> 0;
      const given = [...(hasStamps ? stamps(5, echo) : []), ...(edges.length > 0 ? sack(...edges) : [])];
      return carriedToGuest(carrier, {
        ...fields,
        sourcePort: port,
        seq: (clientIsn + fields.seq!) >>> 0,
        ...(fields.ack !== undefined && { ack: (base.isn + fields.ack) >>> 0 }),
        options: options(...given),
      });
    };
    const what = this.log.slice(-12).join('\n');
    const given = build(seen);
    this.#primary.passes('in', given, build(connection.primary), what);
    this.#secondary?.passes('in', given, build(connection.secondary), what);
  }
}
