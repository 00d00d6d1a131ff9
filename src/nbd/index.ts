/** The NBD library's public face: a server for any source of bytes, a client, and the errors of both. */
export { NBD_DEFAULT_PORT, textOfAddress } from './address.ts';
export type { InetAddress, NbdAddress, UnixAddress } from './address.ts';
export { NbdClient } from './client.ts';
export type { NbdClientOptions } from './client.ts';
export { NbdConnectError, NbdEndOfStreamError, NbdNegotiationError } from './errors.ts';
export type { NbdExportOptions, NbdExportSource, NbdExtent } from './export.ts';
export { NbdServer } from './server.ts';
export type { NbdServerOptions } from './server.ts';
