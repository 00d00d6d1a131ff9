/**
 * `colo-ft/nbd`: an NBD server for any source of bytes, and an NBD client, over TCP or unix sockets, with TLS or without.
 * Offsets and lengths are bytes, times milliseconds. What both can is in docs/nbd-qcow2.md; what they bound, in
 * docs/limits.md.
 */
import { FileDriver } from '../block/drivers/file.ts';
import { BlockNode } from '../block/node.ts';
import type { NbdExportSource } from '../nbd/export.ts';

export { createTlsCredentials } from '../base/tls/objects.ts';
export type { TlsCredentials, TlsCredentialsType, TlsEndpoint } from '../base/tls/credentials.ts';
export { NBD_DEFAULT_PORT } from '../nbd/address.ts';
export type { InetAddress, NbdAddress, UnixAddress } from '../nbd/address.ts';
export { NbdClient } from '../nbd/client.ts';
export type { NbdClientOptions } from '../nbd/client.ts';
export type { ClientTls } from '../nbd/client-connection.ts';
export { NbdConnectError, NbdNegotiationError } from '../nbd/errors.ts';
export type { NbdExportOptions, NbdExportSource, NbdExtent } from '../nbd/export.ts';
export { NbdServer } from '../nbd/server.ts';
export type { NbdServerOptions } from '../nbd/server.ts';
export * from './errors.ts';

/** A source that holds something open. */
export interface ClosableSource extends NbdExportSource {
  /** Waits for requests under way. Idempotent. */
  close(): Promise<void>;
}

/** All optional. */
export interface FileOptions {
  /** Refuses writes, and needs no permission for them; default false. */
  readonly readOnly?: boolean;
}

/**
 * A regular file or a block device as the source of an export, as it is (raw). It is locked as QEMU locks images, so that
 * no two programs write one. Throws ColoError: not there, no permission, in use.
 */
export async function openFile(path: string, options: FileOptions = {}): Promise<ClosableSource> {
  return new BlockNode('file', await FileDriver.open(path, { readOnly: options.readOnly ?? false }));
}
