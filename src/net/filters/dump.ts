/**
 * filter-dump: writes the packets it sees to a capture file and lets them pass. Format: libpcap's classic file, version
 * 2.4, microseconds, little-endian, link type Ethernet; a virtio-net header is left out. Facts: docs/qemu-behaviour.md
 * 2.8 (QEMU net/dump.c), with one fault mended: times are those of the wall clock, also of a filter added later.
 *
 * The file is there, with its header, when the filter is. Packets are gathered in memory and written behind the packet
 * path, a batch at a time; when the disk does not keep up, packets are left out and counted, never held.
 */
import { closeSync, openSync, write, writeSync } from 'node:fs';
import { Deferred } from '../../base/async.ts';
import { ColoError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { systemErrorText } from '../../chardev/system-errors.ts';
import type { FilterEvent, FilterHost, FilterQueue, NetFilter } from '../filter.ts';

const PCAP_MAGIC = 0xa1b2c3d4;
const LINKTYPE_ETHERNET = 1;
const RECORD_HEADER_BYTES = 16;
const FIRST_BATCH_BYTES = 64 * 1024;
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
  queue: FilterQueue;
  enabled: boolean;
  /** Packets left out because the file does not keep up or failed. */
  lost = 0;
  readonly #options: DumpOptions;
  readonly #fd: number;
  readonly #closed = new Deferred<void>();
  #host: FilterHost | null = null;
  /** Records that are being gathered, and the buffer that is being written or will be filled next. */
  #batch = Buffer.allocUnsafeSlow(FIRST_BATCH_BYTES);
  #batchBytes = 0;
  #spare = Buffer.allocUnsafeSlow(FIRST_BATCH_BYTES);
  /** Of the batch that is being written; 0: none is. */
  #writingBytes = 0;
  #failed = false;
  #isClosing = false;

  /** Throws ColoError with QEMU's text when the file cannot be made. */
  constructor(id: string, options: DumpOptions) {
    this.id = id;
    this.queue = options.queue;
    this.enabled = options.enabled;
    this.#options = options;
    try {
      this.#fd = openSync(options.file, 'w', 0o644);
    } catch (cause) {
      throw new ColoError(`net dump: can't open ${options.file}: ${systemErrorText(cause)}`, { cause });
    }
    try {
      writeSync(this.#fd, fileHeader(options.maxBytes));
    } catch (cause) {
      closeSync(this.#fd);
      throw new ColoError(`net dump: can't write ${options.file}: ${systemErrorText(cause)}`, { cause });
    }
  }

  /** Resolves when the file has been closed, whole. */
  get finished(): Promise<void> {
    return this.#closed.promise;
  }

  attached(host: FilterHost): void {
    this.#host = host;
  }

  receive(packet: Uint8Array): boolean {
    const skipped = Math.min(this.#host?.vnetHeaderBytes ?? 0, packet.length);
    const frameBytes = packet.length - skipped;
    const kept = Math.min(frameBytes, this.#options.maxBytes);
    if (this.#failed || this.#isClosing || !this.#makeRoom(RECORD_HEADER_BYTES + kept)) {
      this.lost++;
      return false;
    }
    const batch = this.#batch;
    const at = this.#batchBytes;
    const now = performance.timeOrigin + performance.now();
    const seconds = Math.floor(now / 1000);
    batch.writeUInt32LE(seconds >>> 0, at);
    batch.writeUInt32LE(Math.floor((now - seconds * 1000) * 1000), at + 4);
    batch.writeUInt32LE(kept, at + 8);
    batch.writeUInt32LE(frameBytes, at + 12);
    const body = kept === packet.length ? packet : packet.subarray(skipped, skipped + kept);
    batch.set(body, at + RECORD_HEADER_BYTES);
    this.#batchBytes = at + RECORD_HEADER_BYTES + kept;
    if (at === 0 && this.#writingBytes === 0) setImmediate(() => this.#flush());
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

  /** What has been seen is still written: `finished`. */
  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#flush();
  }

  /** Doubles the batch up to the bound. False: the packet has no place. */
  #makeRoom(bytes: number): boolean {
    const needed = this.#batchBytes + bytes;
    if (needed + this.#writingBytes > MAX_UNWRITTEN_BYTES) return false;
    if (needed <= this.#batch.length) return true;
    let size = this.#batch.length;
    while (size < needed) size *= 2;
    const larger = Buffer.allocUnsafeSlow(size);
    larger.set(this.#batch.subarray(0, this.#batchBytes));
    this.#batch = larger;
    return true;
  }

  #flush(): void {
    if (this.#writingBytes > 0) return;
    if (this.#batchBytes === 0 || this.#failed) {
      if (this.#isClosing) this.#end();
      return;
    }
    const batch = this.#batch;
    const bytes = this.#batchBytes;
    this.#batch = this.#spare;
    this.#batchBytes = 0;
    this.#spare = batch;
    this.#writingBytes = bytes;
    this.#write(batch, 0, bytes);
  }

  #write(batch: Buffer, from: number, to: number): void {
    write(this.#fd, batch, from, to - from, null, (error, written) => {
      if (error) {
        this.#failed = true;
        loggerFor('filter-dump').error(
          `filter-dump '${this.id}': network dump write error - stopping dump: ${error.message}`,
        );
      } else if (from + written < to) {
        this.#write(batch, from + written, to);
        return;
      }
      this.#writingBytes = 0;
      this.#flush();
    });
  }

  #end(): void {
    try {
      closeSync(this.#fd);
    } catch (error) {
      loggerFor('filter-dump').warn(`filter-dump '${this.id}': ${messageOf(error)}`);
    }
    this.#closed.resolve();
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
