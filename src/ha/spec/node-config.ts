/** What one host's daemon is told: `colo node --config FILE`, read by node-file.ts, defaults filled in. */

export const NODE_CONFIG_VERSION = 1;

export interface NodeConfig {
  readonly version: typeof NODE_CONFIG_VERSION;
  /** The host's name in the cluster; default: the first part of the system's host name. */
  readonly name: string;
  /** Where other hosts reach this one: the node's API, and the pairs' links. Default 127.0.0.1. */
  readonly address: string;
  /** The API's TCP port, default 7700; 0: a free one. */
  readonly port: number;
  /** Heartbeats between nodes: an address of a second network if there is one (default: `address`), and a port (7701). */
  readonly heartbeat: {
    readonly address: string;
    readonly port: number;
    readonly intervalMs: number;
    readonly patienceMs: number;
  };
  /** TCP ports for the links of pairs on this host: first and last, default 7710 to 7899. */
  readonly pairPorts: readonly [number, number];
  /** Disks, persisted state. Default /var/lib/colo, or ~/.local/state/colo without root. */
  readonly stateFolder: string;
  /** Sockets and pids; gone after a reboot. Default /run/colo, or $XDG_RUNTIME_DIR/colo. */
  readonly runFolder: string;
  /** For guests, altogether. Default: what the host has, less 1 GiB. */
  readonly memoryMiB: number;
  readonly arbiter: ArbiterConfig;
  /** PEM files; with it every link between hosts is TLS, and who has no certificate of the CA is turned away. */
  readonly tls?: TlsFiles;
  /** Prometheus and health over HTTP; default 127.0.0.1:7702. null: not served. */
  readonly metrics: { readonly address: string; readonly port: number } | null;
  /** The page to watch by; default 127.0.0.1:7703. null: not served. */
  readonly dashboard: DashboardConfig | null;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

export type ArbiterConfig =
  | { readonly kind: 'file'; readonly directory: string }
  | {
      readonly kind: 'etcd';
      readonly endpoints: readonly string[];
      readonly tls?: { readonly ca: string; readonly cert?: string; readonly key?: string };
      readonly user?: string;
      /** A file that holds the password, mode 0600. */
      readonly passwordFile?: string;
    };

export interface DashboardConfig {
  readonly address: string;
  readonly port: number;
  /** Names under which browsers may ask for it, besides addresses and localhost. */
  readonly names: readonly string[];
  /** Holds what has to be shown by whoever looks. There is one when it can be reached from other machines. */
  readonly tokenFile?: string;
}

export interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}
