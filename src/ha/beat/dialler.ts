/** Dials one peer's heartbeat port, again and again with growing pauses, for as long as its owner lacks a connection. */
import net from 'node:net';
import type { Socket } from 'node:net';
import { TimeoutError } from '../../base/errors.ts';
import { secureAsClient } from '../../base/tls/upgrade.ts';
import type { TlsFiles } from '../spec/node-config.ts';
import { hostCredentials } from './host-tls.ts';
import { isRefusal } from './prober.ts';

/** A SYN that was lost is repeated by the kernel after a second; a fresh attempt is sooner. */
export const DIAL_MS = 500;
export const LAST_PAUSE_MS = 1_000;

export interface DiallerHooks {
  onSocket(socket: Socket): void;
  /** The host answers, and nobody listens. */
  onRefused(): void;
  onFailed(error: unknown): void;
}

export interface PeerAddress {
  readonly address: string;
  readonly port: number;
}

export class Dialler {
  readonly #host: string;
  readonly #at: PeerAddress;
  readonly #tls: TlsFiles | null;
  readonly #firstPauseMs: number;
  readonly #hooks: DiallerHooks;
  #pauseMs: number;
  #readyAt = 0;
  #underWay: Socket | null = null;
  #isStopped = false;

  constructor(
    host: string,
    at: PeerAddress,
    options: { readonly tls: TlsFiles | null; readonly firstPauseMs: number },
    hooks: DiallerHooks,
  ) {
    this.#host = host;
    this.#at = at;
    this.#tls = options.tls;
    this.#firstPauseMs = options.firstPauseMs;
    this.#pauseMs = options.firstPauseMs;
    this.#hooks = hooks;
  }

  isAt({ address, port }: PeerAddress): boolean {
    return this.#at.address === address && this.#at.port === port;
  }

  /** Called often while a connection is lacking; dials when the pause since the last attempt is over. */
  dial(now: number): void {
    if (this.#underWay || this.#isStopped || now < this.#readyAt) return;
    // Two hosts that dial each other do not go on in step.
    this.#readyAt = now + this.#pauseMs * (0.75 + Math.random() / 2);
    this.#pauseMs = Math.min(this.#pauseMs * 2, LAST_PAUSE_MS);
    void this.#attempt();
  }

  /** A connection has come about: the next loss is followed by short pauses again. */
  reset(): void {
    this.#pauseMs = this.#firstPauseMs;
    this.#readyAt = 0;
  }

  stop(): void {
    this.#isStopped = true;
    this.#underWay?.destroy();
  }

  async #attempt(): Promise<void> {
    const clear = net.connect({ host: this.#at.address, port: this.#at.port, noDelay: true });
    this.#underWay = clear;
    clear.on('error', () => undefined);
    const timer = setTimeout(
      () => clear.destroy(new TimeoutError(`no answer within ${DIAL_MS} ms`)),
      DIAL_MS,
    );
    try {
      await new Promise<void>((resolve, reject) => {
        clear.once('connect', resolve).once('error', reject);
        clear.once('close', () => reject(new TimeoutError('broken off')));
      });
      const credentials = this.#tls && hostCredentials(this.#tls, 'client', [this.#host, this.#at.address]);
      const socket = credentials ? await secureAsClient(clear, credentials, this.#host) : clear;
      if (this.#isStopped) socket.destroy();
      else this.#hooks.onSocket(socket);
    } catch (error) {
      clear.destroy();
      if (this.#isStopped) return;
      if (isRefusal(error)) this.#hooks.onRefused();
      this.#hooks.onFailed(error);
    } finally {
      clearTimeout(timer);
      this.#underWay = null;
    }
  }
}
