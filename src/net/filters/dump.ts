/**
 * filter-dump: writes the packets it sees to a capture file and lets them pass. Format: libpcap's classic file, version
 * 2.4, microseconds, little-endian, link type Ethernet. Writes go through one stream; when the disk does not keep up,
 * packets are left out and counted, never held. Facts: QEMU qapi/qom.json (FilterDumpProperties), net/dump.c.
 */
import { createWriteStream } from 'node:fs';
import type { WriteStream } from 'node:fs';
import { loggerFor } from '../../base/logger.ts';
import type { FilterEvent, FilterHost, FilterQueue, NetFilter } from '../filter.ts';

const PCAP_MAGIC = 0xa1b2c3d4;
const LINKTYPE_ETHERNET = 1;
const MAX_UNWRITTEN_BYTES = 8 * 1024 * 1024;

export interface DumpOptions {
  readonly queue: FilterQueue;
  readonly enabled: boolean;
  readonly file: string;
  /** Longest part of a packet that is written. */
  readonly maxBytes: number;
}

export class DumpFilter implements NetFilter {
  readonly typeName = 'filter-dump';
  readonly id: string;
  readonly queue: FilterQueue;
  enabled: boolean;
  /** Packets left out because the file does not keep up or failed. */
  lost = 0;
  readonly #options: DumpOptions;
  readonly #stream: WriteStream;
  #host: FilterHost | null = null;
  #failed = false;
  #isClosing = false;
  /** Resolves when the file has been closed. */
  readonly finished: Promise<void>;

  constructor(id: string, options: DumpOptions) {
    this.id = id;
    this.queue = options.queue;
    this.enabled = options.enabled;
    this.#options = options;
    this.#stream = createWriteStream(options.file);
    this.finished = new Promise((resolve) => this.#stream.once('close', () => resolve()));
    this.#stream.on('error', (error) => {
      this.#failed = true;
      loggerFor('filter-dump').error(`filter-dump '${id}': ${options.file}: ${error.message}`);
    });
    this.#stream.write(fileHeader(options.maxBytes));
  }

  attached(host: FilterHost): void {
    this.#host = host;
  }

  receive(packet: Uint8Array): boolean {
    if (this.#failed || this.#stream.writableLength > MAX_UNWRITTEN_BYTES) {
      this.lost++;
      return false;
    }
    const frame = packet.subarray(this.#host?.vnetHeaderBytes ?? 0);
    const kept = Math.min(frame.length, this.#options.maxBytes);
    const record = Buffer.allocUnsafe(16 + kept);
    const now = performance.timeOrigin + performance.now();
    const seconds = Math.floor(now / 1000);
    record.writeUInt32LE(seconds >>> 0, 0);
    record.writeUInt32LE(Math.floor((now - seconds * 1000) * 1000), 4);
    record.writeUInt32LE(kept, 8);
    record.writeUInt32LE(frame.length, 12);
    record.set(frame.subarray(0, kept), 16);
    this.#stream.write(record);
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
      file: this.#options.file,
      maxlen: this.#options.maxBytes,
    };
  }

  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#failed = true;
    this.#stream.end();
  }
}

function fileHeader(maxBytes: number): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(PCAP_MAGIC, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(maxBytes, 16);
  header.writeUInt32LE(LINKTYPE_ETHERNET, 20);
  return header;
}
