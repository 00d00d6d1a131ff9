/**
 * The guest's disks for QEMU: exports of an NBD server on a unix socket. Each QEMU process, the one that runs the guest
 * and the one that waits to take over, has connections of its own; only the former has requests under way.
 */
import { closeSync } from 'node:fs';
import { NbdServer } from '../../nbd/server.ts';
import type { NbdExportSource, NbdExtent } from '../../nbd/export.ts';
import type { EngineDisk } from '../engine.ts';
import { CHILD_FD } from './child.ts';
import { hideSocket, pathOfFd } from './hidden-socket.ts';
import { escapeOption } from './spec.ts';
import type { QemuDiskSpec } from './spec.ts';

/** What is written at once where a disk has no verb for zeros. */
const ZEROS = new Uint8Array(1024 * 1024);
/** With less than this, a flush takes as long as one of nothing. */
const WORTH_A_FLUSH_BYTES = 4 * 1024 * 1024;

export class DiskPort {
  readonly #server = new NbdServer({ maxConnections: 0 });
  readonly #sources: DiskSource[] = [];
  #fd = -1;

  static async open(disks: readonly QemuDiskSpec[]): Promise<DiskPort> {
    const port = new DiskPort();
    for (const { disk } of disks) {
      const source = new DiskSource(disk);
      port.#sources.push(source);
      port.#server.addExport({ name: disk.id, source, writable: !disk.readOnly });
    }
    port.#fd = await hideSocket((path) => port.#server.listen({ path }));
    return port;
  }

  /** For the child's `stdio`, as CHILD_FD.disks. */
  get fd(): number {
    return this.#fd;
  }

  /** The options by which QEMU opens them. */
  args(disks: readonly QemuDiskSpec[]): string[] {
    return disks.flatMap(({ disk, how, options }) => {
      const id = escapeOption(disk.id);
      const at = `server.type=unix,server.path=${pathOfFd(CHILD_FD.disks)},export=${id}`;
      // What becomes of a discard is for the block graph to say.
      const both = ['discard=unmap', ...(disk.readOnly ? ['read-only=on'] : []), ...options];
      if (how === 'blockdev') return ['-blockdev', ['driver=nbd', `node-name=${id}`, at, ...both].join(',')];
      const file = at.replace(/(^|,)(server|export)/g, '$1file.$2');
      return ['-drive', ['format=raw', 'file.driver=nbd', file, `id=${id}`, ...both].join(',')];
    });
  }

  /**
   * Before QEMU is told to stop: it flushes its disks while the guest stands. What has piled up since the last flush goes
   * to stable storage here, while the guest still runs.
   */
  async flushAhead(): Promise<void> {
    await Promise.all(this.#sources.map((source) => source.flushAhead()));
  }

  async close(): Promise<void> {
    await this.#server.close();
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** An EngineDisk as an NBD source. */
class DiskSource implements NbdExportSource {
  readonly #disk: EngineDisk;
  /** Written since the last flush began. */
  #unflushedBytes = 0;

  constructor(disk: EngineDisk) {
    this.#disk = disk;
  }

  get lengthBytes(): number {
    return this.#disk.lengthBytes;
  }

  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#disk.read(offset, target);
  }

  write(offset: number, source: Uint8Array, flags?: { readonly fua?: boolean }): Promise<void> {
    this.#unflushedBytes += source.byteLength;
    const written = this.#disk.write(offset, source);
    return flags?.fua === true ? written.then(() => this.flush()) : written;
  }

  flush(): Promise<void> {
    this.#unflushedBytes = 0;
    return this.#disk.flush();
  }

  async flushAhead(): Promise<void> {
    // QEMU flushes again at once, and whom it concerns hears of the error then.
    if (this.#unflushedBytes >= WORTH_A_FLUSH_BYTES) await this.flush().catch(() => undefined);
  }

  async writeZeroes(
    offset: number,
    length: number,
    flags?: { readonly fua?: boolean; readonly unmap?: boolean },
  ): Promise<void> {
    this.#unflushedBytes += length;
    if (this.#disk.writeZeroes) await this.#disk.writeZeroes(offset, length, flags?.unmap ?? false);
    else {
      for (let done = 0; done < length; done += ZEROS.length) {
        await this.#disk.write(offset + done, ZEROS.subarray(0, Math.min(ZEROS.length, length - done)));
      }
    }
    if (flags?.fua === true) await this.flush();
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#disk.discard?.(offset, length);
  }

  /** What is a hole changes with every write; a guest's disk is all data to QEMU. */
  blockStatus(offset: number, length: number): Promise<readonly NbdExtent[]> {
    return Promise.resolve([{ offset, length, zero: false, data: true }]);
  }
}
