/**
 * Who may look and act. Every request has to name this listener in Host (api/guard.ts: DNS rebinding), and whatever opens
 * a WebSocket has to be this listener's own page, by Origin, or no web page at all. Then:
 *
 * - a token, where one was given or the listener is not on loopback: `token.TOKEN` among the WebSocket's subprotocols,
 *   where it is neither logged nor kept by a browser as it would be in an address;
 * - on loopback without one, the user that runs this process, and root: who could read the token out of the process
 *   anyway. Other users of the machine need the token that was made for the purpose.
 *
 * Wrong tokens are counted by who sent them (an address, on loopback a user); past the bound that one has to wait, and its
 * next tokens are not even compared.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ParameterError } from '../base/errors.ts';
import { isLoopback } from '../api/address.ts';
import { ForbiddenError } from '../api/errors.ts';
import { checkHost } from '../api/guard.ts';
import { uidOfPeer } from './peer-uid.ts';

export const SUBPROTOCOL = 'colo-dashboard';
const TOKEN_PREFIX = 'token.';

/** Wrong tokens of one sender in a minute. */
export const MAX_WRONG_TOKENS = 10;
const FORGIVE_MS = 60_000;
/** Senders that are remembered for theirs; beyond it the oldest is forgotten. */
export const MAX_SUSPECTS = 1024;

/** What a subprotocol may be made of (RFC 6455 4.1, a token of HTTP), long enough not to be guessed. */
const TOKEN = /^[A-Za-z0-9._~-]{16,256}$/;

export interface DoorOptions {
  /** What the listener is bound to. */
  readonly host: string;
  readonly names: readonly string[];
  readonly token: string | null;
  /** Without one: what others than the own user show; default: a new one. */
  readonly spareToken?: string;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
  readonly uidOf?: typeof uidOfPeer;
  readonly ownUid?: number;
}

/** Null: come in. Codes as in WebSocket close frames (RFC 6455 7.4.2: 4000 and on are an application's). */
export interface Refusal {
  readonly code: 4401 | 4403;
  readonly reason: string;
}

export class Door {
  readonly token: string;
  /** Some who reach the listener have to show it. */
  readonly isTokenRequired: boolean;
  readonly #options: DoorOptions;
  readonly #digest: Buffer;
  readonly #now: () => number;
  readonly #suspects = new Map<string, { wrong: number; sinceMs: number }>();

  /** Throws ParameterError: no token where one has to be, or one that is easily guessed. */
  constructor(options: DoorOptions) {
    const { host, token, spareToken } = options;
    if (token === null && !isLoopback(host)) {
      throw new ParameterError(
        `the dashboard on ${host} can be reached from other machines: give it a token, or have it listen on 127.0.0.1`,
      );
    }
    if (!TOKEN.test(token ?? spareToken ?? 'made-by-ourselves')) {
      throw new ParameterError(
        "the dashboard's token: 16 to 256 letters, digits, '.', '_', '~' and '-' (openssl rand -hex 24 makes one)",
      );
    }
    this.#options = options;
    this.isTokenRequired = token !== null;
    this.token = token ?? spareToken ?? randomBytes(24).toString('base64url');
    this.#digest = digestOf(this.token);
    this.#now = options.now ?? (() => performance.now());
  }

  /** For any request. Throws ForbiddenError. */
  checkHost(request: IncomingMessage): void {
    checkHost(request.headers, this.#options.names);
  }

  /** For a WebSocket. */
  async refusalOf(request: IncomingMessage): Promise<Refusal | null> {
    try {
      this.checkHost(request);
      checkOrigin(request);
    } catch (error) {
      if (error instanceof ForbiddenError) return { code: 4403, reason: error.message };
      throw error;
    }
    const token = tokenIn(request);
    // A connection over loopback to a listener that has none need not be told apart from others.
    const uid = isLoopback(this.#options.host) ? await this.#uidOf(request) : null;
    if (!this.isTokenRequired && uid !== null && (uid === 0 || uid === this.#ownUid)) return null;
    if (token === null) {
      return {
        code: 4401,
        reason: this.isTokenRequired
          ? 'a token is needed'
          : 'a token is needed: this is not the user that runs the dashboard',
      };
    }
    const sender = uid === null ? senderOf(request.socket.remoteAddress ?? '') : `uid ${uid}`;
    if (this.#isSuspect(sender)) return { code: 4403, reason: 'too many wrong tokens: wait a minute' };
    if (timingSafeEqual(digestOf(token), this.#digest)) {
      this.#suspects.delete(sender);
      return null;
    }
    this.#remember(sender);
    return { code: 4401, reason: 'the token is wrong' };
  }

  get #ownUid(): number | undefined {
    return this.#options.ownUid ?? process.getuid?.();
  }

  #uidOf(request: IncomingMessage): Promise<number | null> {
    return (this.#options.uidOf ?? uidOfPeer)(request.socket);
  }

  #isSuspect(sender: string): boolean {
    const suspect = this.#suspects.get(sender);
    if (!suspect) return false;
    if (this.#now() - suspect.sinceMs < FORGIVE_MS) return suspect.wrong >= MAX_WRONG_TOKENS;
    this.#suspects.delete(sender);
    return false;
  }

  #remember(sender: string): void {
    const suspect = this.#suspects.get(sender) ?? { wrong: 0, sinceMs: this.#now() };
    suspect.wrong++;
    this.#suspects.delete(sender);
    this.#suspects.set(sender, suspect);
    if (this.#suspects.size <= MAX_SUSPECTS) return;
    for (const oldest of this.#suspects.keys()) {
      this.#suspects.delete(oldest);
      break;
    }
  }
}

/**
 * A page may ask only the very address that it was loaded from. What sends no Origin is no web page. The scheme is not
 * compared: in front of this there may be a proxy that speaks TLS. Throws ForbiddenError.
 */
function checkOrigin({ headers: { origin, host = '' } }: IncomingMessage): void {
  if (origin === undefined) return;
  const page = /^(https?):\/\/([^/?#@\s]+)$/i.exec(origin);
  if (page) {
    // URL leaves the scheme's own port out, as browsers do in both headers.
    const asked = hostIn(`${page[1]!}://${host}`);
    if (asked !== null && asked === hostIn(origin)) return;
  }
  throw new ForbiddenError('this is not the page of this dashboard (Origin)');
}

function hostIn(url: string): string | null {
  return URL.canParse(url) ? new URL(url).host : null;
}

function tokenIn(request: IncomingMessage): string | null {
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((one) => one.trim());
  return offered.find((one) => one.startsWith(TOKEN_PREFIX))?.slice(TOKEN_PREFIX.length) ?? null;
}

/** Digests have one length, whatever is compared. */
function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

/** An IPv6 host has a whole /64 to send from. */
function senderOf(address: string): string {
  return address.includes(':') && !address.startsWith('::')
    ? address.split(':').slice(0, 4).join(':')
    : address;
}
