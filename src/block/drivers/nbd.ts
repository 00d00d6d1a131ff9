/**
 * The `nbd` driver: a node whose bytes are on an NBD server (QEMU's `driver=nbd` with `server.…`, or the older `host`,
 * `port`, `path`; qapi/block-core.json BlockdevOptionsNbd). One connection; when it is lost every request fails until
 * the node is closed and opened anew, unless `reconnect-delay` says how long to wait for it to come back
 * (nbd/reconnecting-connection.ts). Error texts: docs/qemu-behaviour.md 7.2, 8.4.
 */
import { withDeadline } from '../../base/async.ts';
import { ColoError, ParameterError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { NbdAddress } from '../../nbd/address.ts';
import { NBD_DEFAULT_PORT } from '../../nbd/address.ts';
import { NbdClient, type NbdClientOptions } from '../../nbd/client.ts';

import { NBD_CONNECT_TIMEOUT_MS } from '../../nbd/limits.ts';
import type { BlockDriver, BlockExtent, StrongOptions, WriteFlags } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import { OptionReader, type OptionTree } from '../options.ts';
import { parseFilename } from '../probe.ts';
import type { DriverOpener } from '../registry.ts';
import { AlignedNbd } from './nbd-alignment.ts';
import { takeTls } from './nbd-tls.ts';

/** How long `close` gives the last flush. */
const CLOSE_FLUSH_MS = 2000;
/** Between two attempts while `open-timeout` lasts. */
const RETRY_MS = 250;
/** Node's timers hold no more milliseconds. */
const MAX_DELAY_SEC = Math.floor((2 ** 31 - 1) / 1000);
const NO_CHILDREN: ReadonlyMap<string, BlockNode> = new Map();

export class NbdDriver implements BlockDriver {
  readonly driverName = 'nbd';
  readonly lengthBytes: number;
  readonly readOnly: boolean;
  readonly exactName: string | null;
  readonly strongOptions: StrongOptions;
  /** Missing where the server cannot: the node then writes zero bytes. */
  readonly writeZeroes?: (offset: number, length: number, flags?: WriteFlags) => Promise<void>;
  readonly #client: NbdClient;
  readonly #aligned: AlignedNbd;
  /** Something was written since the last flush began. */
  #dirty = false;

  /** `where`: the export and its address, for those who ask what is open here. */
  constructor(
    client: NbdClient,
    readOnly: boolean,
    where?: { address: NbdAddress; exportName: string; isSecure: boolean },
  ) {
    // No URI says which credentials to use.
    this.exactName = where && !where.isSecure ? uriOf(where.address, where.exportName) : null;
    this.strongOptions = where ? optionsOf(where.address, where.exportName) : {};
    this.#client = client;
    this.#aligned = new AlignedNbd(client);
    this.lengthBytes = this.#aligned.lengthBytes;
    this.readOnly = readOnly || client.readOnly;
    if (client.canWriteZeroes) {
      this.writeZeroes = (offset, length, flags) => {
        this.#dirty = true;
        return this.#aligned.writeZeroes(offset, length, flags);
      };
    }
  }

  children(): ReadonlyMap<string, BlockNode> {
    return NO_CHILDREN;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#aligned.read(offset, target);
  }

  write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    this.#dirty = true;
    return this.#aligned.write(offset, source, flags);
  }

  async flush(): Promise<void> {
    this.#dirty = false;
    try {
      await this.#client.flush();
    } catch (error) {
      this.#dirty = true;
      throw error;
    }
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#aligned.discard(offset, length);
  }

  blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    return this.#aligned.blockStatus(offset, length);
  }

  closing(): void {
    this.#client.stopWaiting();
  }

  /** Ends the connection at once: whatever is in flight fails with ESHUTDOWN. For a peer that does not answer. */
  breakOff(): void {
    this.#client.abort();
  }

  /** Flushes what was written since the last flush, says goodbye; a dead or stuck peer costs a few seconds at most. */
  async close(): Promise<void> {
    if (this.#dirty && this.#client.isConnected) {
      try {
        await withDeadline(this.flush(), CLOSE_FLUSH_MS, 'NBD flush');
      } catch (error) {
        loggerFor('nbd-driver').warn(`Failed flush during close: ${messageOf(error)}`);
        this.#client.abort();
      }
    }
    await this.#client.close();
  }
}

/**
 * Opens `driver=nbd`. Options: `server.type=inet|unix` with `server.host`, `server.port` or `server.path`; or `host`,
 * `port`, `path`; `export`; TLS (nbd-tls.ts); `open-timeout` (seconds of further attempts, default 0);
 * `reconnect-delay` (seconds that requests wait for a lost server, default 0); `request-timeout` (milliseconds
 * without progress after which the connection is given up, default 5000, 0 = never; not an option of QEMU's).
 */
export const openNbd: DriverOpener = async (options, context) => {
  const address = takeAddress(options);
  const tls = takeTls(options, address, context);
  const exportName = options.string('export') ?? '';
  const readOnly = options.boolean('read-only') ?? false;
  const openTimeoutSec = options.integer('open-timeout', 0, MAX_DELAY_SEC) ?? 0;
  const requestTimeoutMs = options.integer('request-timeout', 0, 2 ** 31 - 1) ?? 5000;
  if (options.string('x-dirty-bitmap') !== undefined) {
    throw new ParameterError('x-dirty-bitmap is not supported by the nbd driver; leave it out');
  }
  const reconnectDelaySec = options.integer('reconnect-delay', 0, MAX_DELAY_SEC) ?? 0;
  options.finish('nbd');
  const client = await connect(address, openTimeoutSec * 1000, {
    exportName,
    tls,
    reconnectDelayMs: reconnectDelaySec * 1000,
    requestTimeoutMs: requestTimeoutMs === 0 ? Infinity : requestTimeoutMs,
  });
  return new NbdDriver(client, readOnly, { address, exportName, isSecure: tls !== null });
};

/** Driver options for `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`. Throws ParameterError. */
export function nbdOptionsFromUri(uri: string): OptionTree {
  if (!/^nbd(?:\+tcp|\+unix)?:\/\//.test(uri)) throw new ParameterError(`Invalid NBD URI '${uri}'`);
  return parseFilename(uri);
}

/** As QEMU spells it, nothing escaped. */
function uriOf(address: NbdAddress, exportName: string): string {
  const path = exportName === '' ? '' : `/${exportName}`;
  if ('path' in address) return `nbd+unix://${path}?socket=${address.path}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `nbd://${host}:${address.port}${path}`;
}

function optionsOf(address: NbdAddress, exportName: string): StrongOptions {
  const server =
    'path' in address
      ? { 'server.type': 'unix', 'server.path': address.path }
      : { 'server.type': 'inet', 'server.host': address.host, 'server.port': String(address.port) };
  return { ...server, ...(exportName === '' ? {} : { export: exportName }) };
}

async function connect(
  address: NbdAddress,
  openTimeoutMs: number,
  options: NbdClientOptions,
): Promise<NbdClient> {
  const giveUpAt = performance.now() + openTimeoutMs;
  for (;;) {
    try {
      const left = giveUpAt - performance.now();
      const limit = openTimeoutMs > 0 && left < NBD_CONNECT_TIMEOUT_MS ? { connectTimeoutMs: left } : {};
      return await NbdClient.connect(address, { ...options, ...limit });
    } catch (error) {
      // As in QEMU any failure is worth another attempt: a server may listen before it has its exports.
      if (performance.now() + RETRY_MS > giveUpAt) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function takeAddress(options: OptionReader): NbdAddress {
  const server = options.node('server');
  if (typeof server === 'string')
    throw new ParameterError("Parameter 'server' expects server.type, server.host…");
  const path = options.string('path');
  const host = options.string('host');
  const port = options.string('port');
  if (server) {
    if (path !== undefined || host !== undefined || port !== undefined) {
      throw new ParameterError("'server' and path/host/port options may not be used at the same time");
    }
    return takeServer(new OptionReader(server));
  }
  if (path !== undefined && host !== undefined) {
    throw new ParameterError('path and host may not be used at the same time');
  }
  if (path !== undefined) {
    if (port !== undefined) throw new ParameterError('port may not be used without host');
    return { path };
  }
  if (host === undefined) throw new ParameterError('one of path and host must be specified');
  return { host, port: portOf(port ?? String(NBD_DEFAULT_PORT)) };
}

function takeServer(server: OptionReader): NbdAddress {
  const type = server.required('type');
  let address: NbdAddress;
  if (type === 'unix') address = { path: server.required('path') };
  else if (type === 'inet' || type === 'tcp') {
    address = { host: server.required('host'), port: portOf(server.required('port')) };
  } else
    throw new ParameterError(`Parameter 'server.type' does not accept value '${type}'; use inet or unix`);
  server.finish('nbd');
  return address;
}

function portOf(text: string): number {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : NaN;
  if (!(port > 0 && port <= 65_535)) throw new ColoError(`Invalid port '${text}' of the NBD server`);
  return port;
}
