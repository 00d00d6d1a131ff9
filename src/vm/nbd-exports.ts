/**
 * The VM's NBD server and its exports: what nbd-server-start, block-export-add and the like act on (QEMU
 * blockdev-nbd.c, block/export/export.c; texts asked of QEMU 7.2). An export has an id of its own beside the name that
 * clients use.
 */
import { access } from 'node:fs/promises';
import path from 'node:path';
import { ColoError, ParameterError } from '../base/errors.ts';
import type { TlsLookup } from '../base/tls/objects.ts';
import type { BlockGraph } from '../block/graph.ts';
import type { BlockNode } from '../block/node.ts';
import { codeOf, systemErrorText } from '../chardev/system-errors.ts';
import { NbdServer } from '../nbd/server.ts';
import type { NbdAddress } from '../nbd/address.ts';
import type { NbdExportSource, NbdExtent } from '../nbd/export.ts';

export interface NbdExportRequest {
  readonly id: string;
  /** What clients call it. */
  readonly name: string;
  readonly node: BlockNode;
  readonly writable: boolean;
  readonly description?: string;
  /** Every write reaches stable storage before it is answered. */
  readonly writethrough?: boolean;
}

interface Export {
  readonly name: string;
  readonly node: BlockNode;
  isLeaving: boolean;
}

export class NbdExports {
  readonly #graph: BlockGraph;
  readonly #emit: (event: string, data: Record<string, unknown>) => void;
  readonly #tlsCredentials: TlsLookup;
  readonly #exports = new Map<string, Export>();
  #server: NbdServer | null = null;
  #isStarting = false;

  constructor(
    graph: BlockGraph,
    emit: (event: string, data: Record<string, unknown>) => void,
    tlsCredentials: TlsLookup,
  ) {
    this.#graph = graph;
    this.#emit = emit;
    this.#tlsCredentials = tlsCredentials;
  }

  /**
   * Throws ColoError when it runs already, cannot listen, or there are no such credentials. `maxConnections` 0: no
   * limit. With `tlsCredentials` (the id of an object) clients have to begin TLS.
   */
  async start(address: NbdAddress, maxConnections = 100, tlsCredentials?: string): Promise<void> {
    if (this.#server || this.#isStarting) throw new ColoError('NBD server already running');
    const tls = tlsCredentials === undefined ? null : this.#tlsCredentials(tlsCredentials, 'server');
    const server = new NbdServer({ maxConnections, tls });
    this.#isStarting = true;
    try {
      await server.listen(address);
      this.#server = server;
    } catch (error) {
      throw await listenError(address, error);
    } finally {
      this.#isStarting = false;
    }
  }

  /** Where the server listens, or null. */
  get address(): NbdAddress | null {
    return this.#server?.address ?? null;
  }

  /** Throws ColoError, ParameterError. */
  add(request: NbdExportRequest): void {
    const { id, name, node, writable, description, writethrough } = request;
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) throw new ParameterError('Invalid block export id');
    if (this.#exports.has(id)) throw new ColoError(`Block export id '${id}' is already in use`);
    if (!this.#server) throw new ColoError('NBD server not running');
    if (writable && node.readOnly) throw new ColoError('Cannot export read-only node as writable');
    this.#server.addExport({
      name,
      source: writethrough === true ? new WriteThrough(node) : node,
      writable,
      ...(description === undefined ? {} : { description }),
    });
    this.#graph.attach(node, exportUser(id));
    this.#exports.set(id, { name, node, isLeaving: false });
  }

  /** `safe`: only if no client uses it. Throws ColoError. */
  async remove(id: string, mode: 'safe' | 'hard'): Promise<void> {
    const found = this.#exports.get(id);
    if (!found || !this.#server) throw new ColoError(`Export '${id}' is not found`);
    if (found.isLeaving) throw new ColoError(`Export '${id}' is already shutting down`);
    if (mode === 'safe' && this.#server.clientsOf(found.name) > 0) {
      throw new ColoError(`export '${id}' still in use`);
    }
    found.isLeaving = true;
    await this.#server.removeExport(found.name);
    await this.#gone(id, found.node);
  }

  /** Drops every client at once; a stuck one delays nothing. */
  async stop(): Promise<void> {
    if (!this.#server) throw new ColoError('NBD server not running');
    const server = this.#server;
    this.#server = null;
    await server.close();
    for (const [id, { node }] of [...this.#exports]) await this.#gone(id, node);
  }

  async close(): Promise<void> {
    if (this.#server) await this.stop();
  }

  query(): { id: string; 'node-name': string; type: 'nbd'; 'shutting-down': boolean }[] {
    return [...this.#exports].map(([id, { node, isLeaving }]) => ({
      id,
      'node-name': node.nodeName,
      type: 'nbd',
      'shutting-down': isLeaving,
    }));
  }

  async #gone(id: string, node: BlockNode): Promise<void> {
    // A removal and a stop may both come here.
    if (!this.#exports.delete(id)) return;
    await this.#graph.detach(node, exportUser(id));
    this.#emit('BLOCK_EXPORT_DELETED', { id });
  }
}

/** A node whose writes end on stable storage. */
class WriteThrough implements NbdExportSource {
  readonly #node: BlockNode;

  constructor(node: BlockNode) {
    this.#node = node;
  }

  get lengthBytes(): number {
    return this.#node.lengthBytes;
  }

  get readOnly(): boolean {
    return this.#node.readOnly;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#node.read(offset, target);
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#node.write(offset, source, { fua: true });
  }

  flush(): Promise<void> {
    return this.#node.flush();
  }

  writeZeroes(offset: number, length: number, flags?: { readonly unmap?: boolean }): Promise<void> {
    return this.#node.writeZeroes(offset, length, { ...flags, fua: true });
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#node.discard(offset, length);
    await this.#node.flush();
  }

  blockStatus(offset: number, length: number): Promise<readonly NbdExtent[]> {
    return this.#node.blockStatus(offset, length);
  }
}

/** QEMU's words for why an address cannot be had; libuv calls a missing folder "permission denied". */
async function listenError(address: NbdAddress, error: unknown): Promise<ColoError> {
  const cause = (error as { cause?: unknown }).cause;
  if (codeOf(cause) === '') return error instanceof ColoError ? error : new ColoError(systemErrorText(error));
  let text = systemErrorText(cause);
  if ('path' in address) {
    const folder = path.dirname(address.path);
    if (codeOf(cause) === 'EACCES') {
      await access(folder).catch((missing: unknown) => (text = systemErrorText(missing)));
    }
    return new ColoError(`Failed to bind socket to ${address.path}: ${text}`, { cause: error });
  }
  const what = codeOf(cause) === 'EADDRINUSE' ? 'Failed to find an available port' : 'Failed to bind socket';
  return new ColoError(`${what}: ${text}`, { cause: error });
}

function exportUser(id: string): string {
  return `export:${id}`;
}
