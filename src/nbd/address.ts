/**
 * Where an NBD peer is: an inet host and port or a unix socket path, and how that is written in messages (as QEMU's
 * SocketAddress is: `127.0.0.1:10809`, or the path).
 */

/** TCP. */
export interface InetAddress {
  /** A name or a numeric address, IPv6 without brackets. */
  readonly host: string;
  /** 1 to 65535; 0 asks a listener for any free port. */
  readonly port: number;
}
/** A unix socket. */
export interface UnixAddress {
  /** At most 107 bytes, as Linux has it. */
  readonly path: string;
}
/** Where an NBD peer is. */
export type NbdAddress = InetAddress | UnixAddress;

/** NBD's port at IANA. */
export const NBD_DEFAULT_PORT = 10809;

export function textOfAddress(address: NbdAddress): string {
  if ('path' in address) return address.path;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
