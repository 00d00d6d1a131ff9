/** Where the sockets of one pair are; made anew for every pair, so that a dying process's sockets are in nobody's way. */

export interface PairLinks {
  /** Addresses of the two hosts on the network between them. */
  readonly primaryHost: string;
  readonly secondaryHost: string;
  /** On the primary's host, one entry a NIC in the spec's order: `mirror` (9003 in QEMU's document), `compare` (9004). */
  readonly nics: readonly {
    readonly id: string;
    readonly mirrorPort: number;
    readonly comparePort: number;
  }[];
  /** On the secondary's host: the NBD server, and `-incoming`. */
  readonly nbdPort: number;
  readonly migrationPort: number;
  /** Folder with ca-cert.pem and the host's certificate and key (QEMU's tls-creds-x509 names) on both; absent: clear. */
  readonly tlsFolder?: string;
}
