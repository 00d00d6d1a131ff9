/**
 * A guest of a few dozen lines: answers ARP for its address and serves TCP echo on every port. Its state is apart from
 * its connection to the switch, as a VM's is apart from its host process: `moveTo` another client and it goes on.
 * It never retransmits: what gets lost, the other side must resend.
 */
import type { Client } from '../../unit/switch/frames.ts';

const ACK = 0x10;
const PSH = 0x08;
const SYN = 0x02;
const FIN = 0x01;
const INITIAL_SEQUENCE = 1000;

interface Connection {
  sendNext: number;
  receiveNext: number;
}

export class MiniGuest {
  readonly mac: Buffer;
  readonly ip: Buffer;
  readonly #connections = new Map<string, Connection>();
  #client: Client | null = null;
  #lastSyn: Buffer | null = null;
  /** Payloads as they came, retransmissions too. */
  readonly segments: string[] = [];
  onSegment: (() => void) | null = null;

  constructor(mac: number, ip: string) {
    this.mac = Buffer.alloc(6);
    this.mac.writeUIntBE(mac, 0, 6);
    this.ip = Buffer.from(ip.split('.').map(Number));
  }

  /** Answers what comes on `client` from now on, and announces itself there. */
  moveTo(client: Client): void {
    this.#client = client;
    void this.#serve(client);
    this.#send(this.#arp(1, Buffer.alloc(6, 0xff), Buffer.alloc(6), this.ip));
  }

  /** An ARP request for `ip`. */
  askFor(ip: string): void {
    this.#send(this.#arp(1, Buffer.alloc(6, 0xff), Buffer.alloc(6), Buffer.from(ip.split('.').map(Number))));
  }

  /** Says the SYN+ACK of the newest connection once more, with a number that is `ahead` of the first. */
  beginAgain(ahead: number): void {
    const frame = this.#lastSyn;
    if (frame === null) throw new Error('nobody has connected');
    const tcpAt = 14 + (frame[14]! & 15) * 4;
    const receiveNext = (frame.readUInt32BE(tcpAt + 4) + 1) >>> 0;
    this.#sendTcp(frame, tcpAt, { sendNext: INITIAL_SEQUENCE + ahead, receiveNext }, SYN | ACK, '');
  }

  async #serve(client: Client): Promise<void> {
    while (this.#client === client) this.#receive(Buffer.from(await client.take()));
  }

  #send(frame: Buffer): void {
    this.#client?.send(frame);
  }

  #receive(frame: Buffer): void {
    const type = frame.readUInt16BE(12);
    if (type === 0x0806 && frame.readUInt16BE(20) === 1 && frame.subarray(38, 42).equals(this.ip)) {
      this.#send(this.#arp(2, frame.subarray(6, 12), frame.subarray(22, 28), frame.subarray(28, 32)));
    } else if (type === 0x0800 && frame[23] === 6 && frame.subarray(30, 34).equals(this.ip)) {
      this.#receiveTcp(frame);
    }
  }

  #receiveTcp(frame: Buffer): void {
    const tcpAt = 14 + (frame[14]! & 15) * 4;
    const dataAt = tcpAt + (frame[tcpAt + 12]! >> 4) * 4;
    const data = frame.subarray(dataAt, 14 + frame.readUInt16BE(16));
    const flags = frame[tcpAt + 13]!;
    const sequence = frame.readUInt32BE(tcpAt + 4);
    const key = frame.subarray(26, 30).toString('hex') + frame.subarray(tcpAt, tcpAt + 4).toString('hex');
    if (flags & SYN) {
      const connection = { sendNext: INITIAL_SEQUENCE + 1, receiveNext: (sequence + 1) >>> 0 };
      this.#connections.set(key, connection);
      this.#lastSyn = frame;
      this.#sendTcp(frame, tcpAt, { ...connection, sendNext: INITIAL_SEQUENCE }, SYN | ACK, '');
      return;
    }
    const connection = this.#connections.get(key);
    if (!connection) return;
    const text = data.toString();
    if (text) {
      this.segments.push(text);
      this.onSegment?.();
    }
    if (sequence !== connection.receiveNext) {
      if (text) this.#sendTcp(frame, tcpAt, connection, ACK, '');
      return;
    }
    connection.receiveNext = (sequence + data.length + (flags & FIN ? 1 : 0)) >>> 0;
    if (text) this.#sendTcp(frame, tcpAt, connection, ACK | PSH, text);
    connection.sendNext = (connection.sendNext + data.length) >>> 0;
    if (flags & FIN) {
      this.#sendTcp(frame, tcpAt, connection, ACK | FIN, '');
      connection.sendNext++;
    }
  }

  #sendTcp(to: Buffer, tcpAt: number, connection: Connection, flags: number, text: string): void {
    const out = Buffer.alloc(54 + text.length);
    to.copy(out, 0, 6, 12);
    this.mac.copy(out, 6);
    out.writeUInt16BE(0x0800, 12);
    out[14] = 0x45;
    out.writeUInt16BE(40 + text.length, 16);
    out[22] = 64;
    out[23] = 6;
    this.ip.copy(out, 26);
    to.copy(out, 30, 26, 30);
    out.writeUInt16BE(checksum(out.subarray(14, 34), 0), 24);
    to.copy(out, 34, tcpAt + 2, tcpAt + 4);
    to.copy(out, 36, tcpAt, tcpAt + 2);
    out.writeUInt32BE(connection.sendNext, 38);
    out.writeUInt32BE(connection.receiveNext, 42);
    out[46] = 0x50;
    out[47] = flags;
    out.writeUInt16BE(65_535, 48);
    out.write(text, 54);
    // The pseudo header: both addresses (which lie before the TCP header), the protocol, the length.
    out.writeUInt16BE(checksum(out.subarray(26), 6 + 20 + text.length), 50);
    this.#send(out);
  }

  #arp(operation: number, to: Buffer, targetMac: Buffer, targetIp: Buffer): Buffer {
    const out = Buffer.alloc(60);
    to.copy(out, 0);
    this.mac.copy(out, 6);
    Buffer.from([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]).copy(out, 12);
    this.mac.copy(out, 22);
    this.ip.copy(out, 28);
    targetMac.copy(out, 32);
    targetIp.copy(out, 38);
    return out;
  }
}

/** RFC 1071. */
function checksum(bytes: Buffer, start: number): number {
  let sum = start;
  for (let i = 0; i < bytes.length; i++) sum += i % 2 === 0 ? bytes[i]! << 8 : bytes[i]!;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}
