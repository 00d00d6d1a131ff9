/**
 * The half of a chardev that faces its user: exclusive use, the read switch, and calls into the frontend that never
 * come from inside `attach` and never let a frontend's failure out of an event handler. Shared by all chardevs here.
 */
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { ChardevInUseError } from './chardev.ts';
import type { ChardevFrontend } from './chardev.ts';

const log = loggerFor('chardev');

/** What the chardev does when its frontend's wish to read may have changed. */
export interface FrontendPortOwner {
  readonly id: string;
  isConnected(): boolean;
  /** Called after attach, detach and setReading, from the event loop or from `setReading`. */
  readingChanged(): void;
  /** The frontend threw: give up the current connection. */
  frontendFailed(): void;
}

export class FrontendPort {
  readonly #owner: FrontendPortOwner;
  #frontend: ChardevFrontend | null = null;
  #user: string | null = null;
  #switchedOn = true;
  /** The frontend has been told that a peer is there. */
  #told = false;

  constructor(owner: FrontendPortOwner) {
    this.#owner = owner;
  }

  get user(): string | null {
    return this.#user;
  }

  /** True when bytes may be read from the peer: someone is there to take them, knows the peer, and wants them. */
  get wantsData(): boolean {
    return this.#told && this.#switchedOn;
  }

  attach(frontend: ChardevFrontend, user: string): void {
    if (this.#frontend) throw new ChardevInUseError(this.#owner.id);
    this.#frontend = frontend;
    this.#user = user;
    this.#switchedOn = true;
    queueMicrotask(() => {
      if (this.#frontend === frontend && this.#owner.isConnected()) this.opened();
    });
  }

  /** Does nothing when `frontend` is not the one attached. */
  detach(frontend: ChardevFrontend): void {
    if (this.#frontend !== frontend) return;
    this.#frontend = null;
    this.#user = null;
    this.#told = false;
    this.#owner.readingChanged();
  }

  setReading(on: boolean): void {
    this.#switchedOn = on;
    this.#owner.readingChanged();
  }

  /** A peer is there. */
  opened(): void {
    const frontend = this.#frontend;
    if (!frontend || this.#told) return;
    this.#told = true;
    this.#guard(() => frontend.onOpen?.());
    this.#owner.readingChanged();
  }

  /** The first `length` bytes of `memory` have come. */
  data(memory: Uint8Array, length = memory.length): void {
    const frontend = this.#frontend;
    if (!frontend) return;
    try {
      if (frontend.onRead) frontend.onRead(memory, length);
      else frontend.onData(memory.subarray(0, length));
    } catch (error) {
      this.#report(error);
    }
  }

  /** The peer went away. */
  closed(): void {
    const frontend = this.#frontend;
    if (!frontend || !this.#told) return;
    this.#told = false;
    this.#guard(() => frontend.onClose?.());
  }

  #guard(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#report(error);
    }
  }

  /** A frontend that throws has a bug, but a peer's bytes must never end the process: its connection goes instead. */
  #report(error: unknown): void {
    log.error(
      { chardev: this.#owner.id, user: this.#user, err: error },
      `chardev '${this.#owner.id}': its user failed, the connection is given up: ${messageOf(error)}`,
    );
    this.#owner.frontendFailed();
  }
}
