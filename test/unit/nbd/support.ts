/**
 * What the NBD tests share: a source in memory that can be slowed down or made to fail, temporary directories, and a
 * raw connection for speaking the protocol byte by byte.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteReader } from '../../../src/nbd/byte-reader.ts';
import type { NbdExportSource, NbdExtent } from '../../../src/nbd/export.ts';
import { NbdServer, type NbdServerOptions } from '../../../src/nbd/server.ts';

/** Where cleaning up is left: a test's context, or anything like it. */
export interface Cleanup {
  after(clean: () => unknown): void;
}

/** Bytes in memory. Blocks of 4 KiB that were never written (or were zeroed or discarded) are holes. */
export class MemorySource implements NbdExportSource {
  readonly bytes: Buffer;
  readOnly = false;
  readonly calls: string[] = [];
  /** Awaited before each request when set. */
  before: ((call: string) => Promise<void>) | null = null;
  readonly #written: Set<number> = new Set();

  constructor(lengthBytes: number) {
    this.bytes = Buffer.alloc(lengthBytes);
  }

  get lengthBytes(): number {
    return this.bytes.length;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#enter(`read ${offset} ${target.byteLength}`);
    target.set(this.bytes.subarray(offset, offset + target.byteLength));
  }

  async write(offset: number, source: Uint8Array, flags?: { readonly fua?: boolean }): Promise<void> {
    await this.#enter(`write ${offset} ${source.byteLength}${flags?.fua ? ' fua' : ''}`);
    this.bytes.set(source, offset);
    this.#mark(offset, source.byteLength, true);
  }

  async flush(): Promise<void> {
    await this.#enter('flush');
  }

  async writeZeroes(
    offset: number,
    length: number,
    flags?: { readonly fua?: boolean; readonly unmap?: boolean },
  ): Promise<void> {
    await this.#enter(`zero ${offset} ${length}${flags?.fua ? ' fua' : ''}${flags?.unmap ? ' unmap' : ''}`);
    this.bytes.fill(0, offset, offset + length);
    if (flags?.unmap) this.#mark(offset, length, false);
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#enter(`discard ${offset} ${length}`);
    this.bytes.fill(0, offset, offset + length);
    this.#mark(offset, length, false);
  }

  async blockStatus(offset: number, length: number): Promise<NbdExtent[]> {
    await this.#enter(`status ${offset} ${length}`);
    const extents: NbdExtent[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min((Math.floor(at / 4096) + 1) * 4096, offset + length);
      const data = this.#written.has(Math.floor(at / 4096));
      extents.push({ offset: at, length: end - at, zero: !data, data });
      at = end;
    }
    return extents;
  }

  async #enter(call: string): Promise<void> {
    this.calls.push(call);
    await this.before?.(call);
  }

  #mark(offset: number, length: number, written: boolean): void {
    const last = Math.ceil((offset + length) / 4096);
    for (let block = Math.floor(offset / 4096); block < last; block++) {
      if (written) this.#written.add(block);
      else if (block * 4096 >= offset && (block + 1) * 4096 <= offset + length) this.#written.delete(block);
    }
  }
}

/** A directory that is removed when the test ends. */
export async function temporaryDirectory(t: Cleanup): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'nbd-test-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A listening server that is closed when the test ends. */
export async function startServer(
  t: Cleanup,
  options: NbdServerOptions = {},
): Promise<{ server: NbdServer; host: string; port: number }> {
  const server = new NbdServer(options);
  t.after(() => server.close());
  const address = await server.listen({ host: '127.0.0.1', port: 0 });
  if (!('port' in address)) throw new Error('not an inet address');
  return { server, ...address };
}

/** A connection on which a test speaks raw bytes. */
export class RawPeer {
  readonly socket: Socket;
  readonly reader: ByteReader;
  readonly closed: Promise<void>;

  constructor(socket: Socket) {
    this.socket = socket;
    this.reader = new ByteReader(
      { pause: () => void socket.pause(), resume: () => void socket.resume() },
      2 ** 24,
    );
    socket.on('data', (chunk: Buffer) => this.reader.push(chunk));
    socket.on('end', () => this.reader.end());
    socket.on('error', () => this.reader.end());
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.reader.end();
        resolve();
      });
    });
  }

  static async connect(t: Cleanup, address: { host: string; port: number }): Promise<RawPeer> {
    const socket = connect(address.port, address.host);
    t.after(() => void socket.destroy());
    const peer = new RawPeer(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return peer;
  }

  send(...hex: (string | Uint8Array)[]): void {
    for (const piece of hex) {
      this.socket.write(typeof piece === 'string' ? Buffer.from(piece.replaceAll(/\s/g, ''), 'hex') : piece);
    }
  }

  async receive(length: number): Promise<string> {
    return (await this.reader.read(length)).toString('hex');
  }
}

/** A server whose every byte a test writes: `serve` runs for each connection. */
export async function startLiar(
  t: Cleanup,
  serve: (peer: RawPeer) => Promise<void>,
): Promise<{ host: string; port: number }> {
  const peers: RawPeer[] = [];
  const listener = createServer((socket) => {
    const peer = new RawPeer(socket);
    peers.push(peer);
    // A liar that is hung up on has done its work.
    serve(peer).catch(() => socket.destroy());
  });
  t.after(() => {
    for (const peer of peers) peer.socket.destroy();
    listener.close();
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('not an inet address');
  return { host: '127.0.0.1', port: address.port };
}
