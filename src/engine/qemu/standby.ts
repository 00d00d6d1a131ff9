/**
 * The QEMU process that waits to take the next state. It is started off the critical path; when it cannot be, or dies
 * while it waits, it is tried again, later each time. Whoever needs it is told why there is none, before anything else
 * has changed.
 */
import { ClosedError, ColoError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { QemuMachine } from './machine.ts';

const log = loggerFor('engine-qemu');
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;

export class Standby {
  readonly #launch: () => Promise<QemuMachine>;
  #launching: Promise<QemuMachine> | null = null;
  #ready: QemuMachine | null = null;
  #retry: NodeJS.Timeout | null = null;
  #retryMs = FIRST_RETRY_MS;
  #isClosed = false;

  constructor(launch: () => Promise<QemuMachine>) {
    this.#launch = launch;
  }

  /** From now on one is kept waiting. */
  prepare(): void {
    this.wait().catch(() => undefined); // logged, and told to whoever needs it
  }

  /** Ends when one waits. Throws ColoError when it cannot be started; the next call tries again at once. */
  async wait(): Promise<void> {
    if (this.#isClosed) throw new ClosedError('engine qemu: stopped');
    if (this.#ready) return;
    this.#launching ??= this.#begin();
    await this.#launching;
  }

  /**
   * The one that waits, which from now on is the caller's. One that dies just now, or while it is being started, is replaced
   * once. Throws as `wait`.
   */
  async take(): Promise<QemuMachine> {
    const asked = performance.now();
    for (let isLast = false; ; isLast = true) {
      try {
        await this.wait();
      } catch (error) {
        if (isLast || this.#isClosed) throw error;
        continue;
      }
      const machine = this.#ready;
      if (machine) {
        this.#ready = null;
        log.debug({ waitedMs: performance.now() - asked }, 'a standby takes over');
        return machine;
      }
      if (isLast) throw new ColoError('the QEMU that was to take the state ended');
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#retry) clearTimeout(this.#retry);
    await this.#launching?.catch(() => undefined);
    await this.#ready?.retire();
    this.#ready = null;
  }

  async #begin(): Promise<QemuMachine> {
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
    try {
      const began = performance.now();
      const machine = await this.#launch();
      this.#ready = machine;
      this.#retryMs = FIRST_RETRY_MS;
      log.debug({ warmMs: performance.now() - began }, 'a standby waits');
      void machine.child.ended.then((reason) => {
        if (this.#ready !== machine) return;
        this.#ready = null;
        if (!machine.isRetired) this.#again(reason);
      });
      return machine;
    } catch (cause) {
      this.#again(cause);
      throw new ColoError(`the QEMU that is to take the next state cannot be started: ${messageOf(cause)}`, {
        cause,
      });
    } finally {
      this.#launching = null;
    }
  }

  #again(cause: unknown): void {
    if (this.#isClosed) return;
    log.error({ err: cause, retryMs: this.#retryMs }, 'no QEMU waits to take the next checkpoint');
    this.#retry = setTimeout(() => this.prepare(), this.#retryMs);
    this.#retry.unref();
    this.#retryMs = Math.min(2 * this.#retryMs, LAST_RETRY_MS);
  }
}
