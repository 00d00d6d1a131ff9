/**
 * The chardevs of one VM by id: created from the command line and by QMP's chardev-add, found by the objects that use
 * them. Opening happens one at a time, in the caller's order; ids are taken from the moment `add` is called.
 */
import { ColoError, TimeoutError, messageOf } from '../base/errors.ts';
import { TlsCredentialsSet } from '../base/tls/objects.ts';
import type { TlsLookup } from '../base/tls/objects.ts';
import type { Chardev } from './chardev.ts';
import { ChardevOpenError } from './dial.ts';
import { ChardevOptionError, parseChardevBackend } from './options.ts';
import type { ChardevConfig } from './options.ts';
import { SinkChardev } from './sink.ts';
import { SocketChardev } from './socket.ts';
import { StdioChardev } from './stdio.ts';

/** A chardev as the registry makes it. */
export type OwnedChardev = SocketChardev | StdioChardev | SinkChardev;

function create(config: ChardevConfig, findCredentials: TlsLookup): OwnedChardev {
  switch (config.backend) {
    case 'socket': {
      const { tlsCreds, server } = config;
      const credentials =
        tlsCreds === undefined ? null : findCredentials(tlsCreds, server ? 'server' : 'client');
      return new SocketChardev(config, credentials);
    }
    case 'stdio':
      return new StdioChardev(config);
    case 'null':
    case 'file':
      return new SinkChardev(config);
  }
}

export class Chardevs {
  readonly #byId = new Map<string, OwnedChardev>();
  readonly #opening = new Map<string, OwnedChardev>();
  readonly #findCredentials: TlsLookup;

  /** `findCredentials`: for chardevs with TLS; without it there are none. */
  constructor(findCredentials: TlsLookup = new TlsCredentialsSet().find) {
    this.#findCredentials = findCredentials;
  }

  /**
   * Creates and opens: a server is bound, a client without reconnect is connected when this resolves. It does not wait
   * for the first client of a server with `wait`; see SocketChardev.waitConnected.
   * Throws ColoError: the id is taken, stdio is in use, or the socket could not be opened.
   */
  async add(config: ChardevConfig): Promise<OwnedChardev> {
    const { id } = config;
    if (this.#byId.has(id) || this.#opening.has(id))
      throw new ColoError(`Chardev with id '${id}' already exists`);
    if (config.backend === 'stdio' && this.#stdioInUse()) {
      throw new ColoError('cannot use stdio by multiple character devices');
    }
    const chardev = create(config, this.#findCredentials);
    this.#opening.set(id, chardev);
    try {
      await chardev.open();
      this.#byId.set(id, chardev);
      return chardev;
    } finally {
      this.#opening.delete(id);
    }
  }

  /** QMP's chardev-add. Failures beyond the schema say `Failed to add chardev 'ID': …`, as QEMU's do. */
  async addBackend(id: string, backend: unknown): Promise<OwnedChardev> {
    if (this.#byId.has(id) || this.#opening.has(id))
      throw new ColoError(`Chardev with id '${id}' already exists`);
    try {
      return await this.add(parseChardevBackend(id, backend));
    } catch (error) {
      const prefixed =
        error instanceof ChardevOpenError ||
        error instanceof ChardevOptionError ||
        error instanceof TimeoutError;
      throw prefixed
        ? new ColoError(`Failed to add chardev '${id}': ${messageOf(error)}`, { cause: error })
        : error;
    }
  }

  /** Throws ColoError when there is none of that id, or somebody uses it. */
  async remove(id: string): Promise<void> {
    const chardev = this.#byId.get(id);
    if (!chardev) throw new ColoError(`Chardev '${id}' not found`);
    if (chardev.user !== null) throw new ColoError(`Chardev '${id}' is busy`);
    this.#byId.delete(id);
    await chardev.close();
  }

  find(id: string): OwnedChardev | null {
    return this.#byId.get(id) ?? null;
  }

  /** In order of creation. */
  all(): OwnedChardev[] {
    return [...this.#byId.values()];
  }

  /** Also ends those that are being opened. */
  async closeAll(): Promise<void> {
    const chardevs: Chardev[] = [...this.#byId.values(), ...this.#opening.values()];
    this.#byId.clear();
    await Promise.all(chardevs.map((chardev) => chardev.close()));
  }

  #stdioInUse(): boolean {
    return [...this.#byId.values(), ...this.#opening.values()].some(
      (chardev) => chardev instanceof StdioChardev,
    );
  }
}
