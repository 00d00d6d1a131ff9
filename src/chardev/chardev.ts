/**
 * What a character device offers to the object that uses it (a filter, colo-compare, a QMP monitor): a stream of bytes
 * with one exclusive user. Implemented by socket.ts; a test may implement it in memory.
 */
import { ColoError } from '../base/errors.ts';

/** The user of a chardev. Calls come from the event loop, never from inside `attach` or `write`. */
export interface ChardevFrontend {
  /** Bytes from the peer. The view is valid during the call only; keep a copy if you must. */
  onData(chunk: Uint8Array): void;
  /** Called instead of `onData` where it is there: the first `length` bytes of `memory`. It saves a view for each read. */
  onRead?(memory: Uint8Array, length: number): void;
  /** A peer is there (again). Reader state of an earlier connection must be dropped here. */
  onOpen?(): void;
  /** The peer went away; a client chardev with `reconnect` goes on trying. */
  onClose?(): void;
}

export interface Chardev {
  readonly id: string;
  /** True while a peer is connected. */
  readonly connected: boolean;
  /**
   * The current connection as `host:port>host:port`, local side first, and the same with the remote side first; null
   * when not connected or not an inet socket. Both ends of one connection see the same two names, crossed.
   */
  readonly connection: { readonly outgoing: string; readonly incoming: string } | null;
  /** Bytes accepted for the current connection by `write`. 0 again after each connect. */
  readonly bytesOut: number;
  /** Bytes that the frontend has been given from the current connection. */
  readonly bytesIn: number;
  /** Takes exclusive use. Throws ChardevInUseError when somebody has it. */
  attach(frontend: ChardevFrontend, user: string): void;
  detach(frontend: ChardevFrontend): void;
  /** Who uses it, or null. */
  readonly user: string | null;
  /**
   * Sends bytes, which are copied: the caller may reuse them. They leave, in order, at the latest when the callback that
   * the caller runs in has ended. False when no peer is connected or when the bound on unsent bytes (4 MiB) is reached:
   * nothing at all was accepted then.
   */
  write(bytes: Uint8Array): boolean;
  /** `head` and `body[from, to)` as one unit: both or none are accepted. For a header and its payload. */
  writePair(head: Uint8Array, body: Uint8Array, from?: number, to?: number): boolean;
  /** Stops (or goes on) reading from the peer; TCP's own flow control does the rest. */
  setReading(on: boolean): void;
  close(): Promise<void>;
}

/** Somebody else has exclusive use of this chardev. */
export class ChardevInUseError extends ColoError {
  constructor(id: string) {
    super(`chardev '${id}' is already in use`);
  }
}
