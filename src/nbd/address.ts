/**
 * Where an NBD peer is: an inet host and port or a unix socket path, and how that is written in messages (as QEMU's
 * SocketAddress is: `127.0.0.1:10809`, or the path).
 */

export interface InetAddress {
  readonly host: string;
  /** 0 asks a listener for any free port. */
  readonly port: number;
}
export interface UnixAddress {
  readonly path: string;
}
export type NbdAddress = InetAddress | UnixAddress;

export const NBD_DEFAULT_PORT = 10809;

export function textOfAddress(address: NbdAddress): string {
  if ('path' in address) return address.path;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
