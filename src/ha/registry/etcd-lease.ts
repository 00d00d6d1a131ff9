/** A host's registration in etcd: what it tells in one key, and beside it a key on a lease that it keeps alive. */
import type { HostView } from '../views.ts';
import type { EtcdKeys } from './etcd-keys.ts';
import type { RegistrationStore } from './registration.ts';
import { HOST, encode } from './schema.ts';

export class EtcdLease implements RegistrationStore {
  readonly #keys: EtcdKeys;
  readonly #seconds: number;
  readonly #keyOf: (name: string) => { readonly host: string; readonly alive: string };
  #id: string | null = null;

  constructor(
    keys: EtcdKeys,
    seconds: number,
    keyOf: (name: string) => { readonly host: string; readonly alive: string },
  ) {
    this.#keys = keys;
    this.#seconds = seconds;
    this.#keyOf = keyOf;
  }

  async register(host: HostView): Promise<void> {
    const at = this.#keyOf(host.name);
    if (this.#id === null || !(await this.#keys.keepAlive(this.#id))) {
      this.#id = await this.#keys.grant(this.#seconds);
    }
    await this.#keys.txn(
      [],
      [
        { put: at.host, value: encode(HOST, host) },
        { put: at.alive, value: '', lease: this.#id },
      ],
      [],
    );
  }

  async tell(host: HostView): Promise<void> {
    await this.#keys.txn([], [{ put: this.#keyOf(host.name).host, value: encode(HOST, host) }], []);
  }

  async keepUp(): Promise<boolean> {
    const isKept = this.#id !== null && (await this.#keys.keepAlive(this.#id));
    if (!isKept) this.#id = null;
    return isKept;
  }

  /** The key goes with the lease. */
  async giveUp(): Promise<void> {
    if (this.#id === null) return;
    await this.#keys.revoke(this.#id);
    this.#id = null;
  }
}
