/** The VM's NBD server: what nbd-server-start, -add and -stop act on (QEMU blockdev-nbd.c, block/export/export.c). */
import { access } from 'node:fs/promises';
import path from 'node:path';
import { ColoError } from '../base/errors.ts';
import type { TlsLookup } from '../base/tls/objects.ts';
import type { BlockGraph } from '../block/graph.ts';
import type { BlockNode } from '../block/node.ts';
import { codeOf, systemErrorText } from '../chardev/system-errors.ts';
import { NbdServer } from '../nbd/server.ts';
import type { NbdAddress } from '../nbd/address.ts';

export class NbdExports {
  readonly #graph: BlockGraph;
  readonly #emit: (event: string, data: Record<string, unknown>) => void;
  readonly #tlsCredentials: TlsLookup;
  readonly #exports = new Map<string, BlockNode>();
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

  add(device: string, name: string, writable: boolean): void {
    if (!this.#server) throw new ColoError('NBD server not running');
    if (this.#exports.has(name)) throw new ColoError(`Block export id '${name}' is already in use`);
    const node = this.#graph.require(device);
    this.#server.addExport({ name, source: node, writable: writable && !node.readOnly });
    this.#graph.attach(node, exportUser(name));
    this.#exports.set(name, node);
  }

  async remove(name: string): Promise<void> {
    const node = this.#exports.get(name);
    if (!node || !this.#server) throw new ColoError(`Export '${name}' is not found`);
    await this.#server.removeExport(name);
    await this.#gone(name, node);
  }

  /** Drops every client at once; a stuck one delays nothing. */
  async stop(): Promise<void> {
    if (!this.#server) throw new ColoError('NBD server not running');
    const server = this.#server;
    this.#server = null;
    await server.close();
    for (const [name, node] of [...this.#exports]) await this.#gone(name, node);
  }

  async close(): Promise<void> {
    if (this.#server) await this.stop();
  }

  query(): { id: string; 'node-name': string; type: 'nbd'; 'shutting-down': boolean }[] {
    return [...this.#exports].map(([id, node]) => ({
      id,
      'node-name': node.nodeName,
      type: 'nbd',
      'shutting-down': false,
    }));
  }

  async #gone(name: string, node: BlockNode): Promise<void> {
    this.#exports.delete(name);
    await this.#graph.detach(node, exportUser(name));
    this.#emit('BLOCK_EXPORT_DELETED', { id: name });
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

function exportUser(name: string): string {
  return `export:${name}`;
}
