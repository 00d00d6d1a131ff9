/**
 * `colo-ft/qmp`: QEMU's monitor protocol. The client talks to QEMU and to `colo vm` alike; the server lets a program of
 * one's own be driven by QMP. Times are milliseconds. Integers beyond 2^53 arrive as bigint.
 */
import { QmpServer as Server } from '../qmp/server.ts';
import type { QmpAddress } from '../qmp/server.ts';
import type { JsonObject } from '../qmp/json-stream.ts';
import type { QmpVersion } from '../qmp/types.ts';

export { CommandNotFoundError, DeviceNotActiveError, DeviceNotFoundError } from '../base/errors.ts';
export type { QmpErrorClass } from '../base/errors.ts';
export { QmpClient, QmpCommandError } from '../qmp/client.ts';
export type { ConnectOptions, EventListener, ExecuteOptions } from '../qmp/client.ts';
export type { JsonObject, JsonValue } from '../qmp/json-stream.ts';
export type { QmpAddress } from '../qmp/server.ts';
export type { QmpEvent, QmpGreeting, QmpTimestamp, QmpVersion } from '../qmp/types.ts';
export * from './errors.ts';

/** What a server needs to be told. */
export interface QmpServerOptions {
  /** What the greeting says. Managers choose their spellings by it. */
  readonly version: QmpVersion;
  /**
   * Does one command of one client; a client's next one waits for it. What it returns is the reply; undefined is `{}`. A
   * ColoError becomes an error reply of its class (CommandNotFoundError for a command that is not known), any other
   * error a GenericError and a line in the log. `args` have not been looked at.
   */
  readonly execute: (command: string, args: JsonObject) => unknown;
}

/** Up to 64 clients at a time; one that does not read what it is sent is disconnected. */
export class QmpServer {
  readonly #server: Server;

  constructor({ version, execute }: QmpServerOptions) {
    this.#server = new Server({
      version,
      // eslint-disable-next-line @typescript-eslint/require-await -- what is thrown at once becomes a reply too
      dispatch: async (command, args) => execute(command, args),
    });
  }

  /** Clients that are connected, also those that have not negotiated. */
  get clientCount(): number {
    return this.#server.sessionCount;
  }

  /**
   * Starts to listen and returns where: port 0 takes any free one, an abandoned unix socket is replaced. May be called for
   * several addresses. Throws ColoError when the address cannot be had.
   */
  listen(address: QmpAddress): Promise<QmpAddress> {
    return this.#server.listen(address);
  }

  /** Sends an event to every client that has negotiated. */
  emit(event: string, data: object = {}): void {
    this.#server.broadcast(event, data);
  }

  /** Stops listening, lets every client read what it is owed (for a second at most), and closes. Idempotent. */
  close(): Promise<void> {
    return this.#server.close();
  }
}
