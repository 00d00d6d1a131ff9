/**
 * One page that watches. Pictures replace each other: of those that a slow reader has not taken, only the newest is kept.
 * What adds up (events, checkpoints, answers) is sent on; a reader that falls too far behind with that is sent away, and
 * comes back to a fresh beginning. So what is kept for one watcher has a bound.
 */
import type { WebSocket } from 'ws';

/** Unsent bytes beyond which a watcher's pictures are skipped. */
export const PICTURE_UNSENT_BYTES = 256 * 1024;
/** Unsent bytes beyond which a watcher is sent away. */
export const MAX_UNSENT_BYTES = 4 * 1024 * 1024;
/** Messages of one watcher in a second. */
export const MAX_MESSAGES_A_SECOND = 50;

export const CLOSE = {
  going: 1001,
  badMessage: 1008,
  failed: 1011,
  tooSlow: 1013,
} as const;

/** What replaces its like. */
export type PictureKind = 'cluster' | 'pair' | 'trouble';

export class Watcher {
  readonly #socket: WebSocket;
  /** Skipped so far: what the watcher should see as soon as it reads again. */
  readonly #skipped = new Map<PictureKind, Buffer>();
  #second = 0;
  #messages = 0;

  constructor(socket: WebSocket) {
    this.#socket = socket;
  }

  /** One of a kind, serialised once for all watchers. */
  picture(kind: PictureKind, message: Buffer): void {
    if (this.#socket.bufferedAmount > PICTURE_UNSENT_BYTES) this.#skipped.set(kind, message);
    else {
      this.#skipped.delete(kind);
      this.#send(message);
    }
  }

  /** A picture that was skipped is not wanted any more. */
  forget(kind: PictureKind): void {
    this.#skipped.delete(kind);
  }

  /** What has to arrive. */
  tell(message: Buffer): void {
    if (this.#socket.bufferedAmount > MAX_UNSENT_BYTES) this.#sendAway();
    else this.#send(message);
  }

  /** False: it says too much. */
  mayTalk(nowMs: number): boolean {
    const second = Math.floor(nowMs / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#messages = 0;
    }
    return ++this.#messages <= MAX_MESSAGES_A_SECOND;
  }

  close(code: number, reason: string): void {
    this.#socket.close(code, closeReason(reason));
  }

  #send(message: Buffer): void {
    this.#socket.send(message, TEXT, this.#sent);
  }

  readonly #sent = (): void => {
    if (this.#skipped.size === 0 || this.#socket.bufferedAmount > PICTURE_UNSENT_BYTES) return;
    const skipped = [...this.#skipped];
    this.#skipped.clear();
    for (const [kind, message] of skipped) this.picture(kind, message);
  };

  /** Its close frame would wait behind all the rest. */
  #sendAway(): void {
    this.close(CLOSE.tooSlow, 'too slow a reader');
    this.#socket.terminate();
  }
}

const TEXT = { binary: false } as const;

/** A close frame has room for 123 bytes of reason (RFC 6455 5.5). */
export function closeReason(text: string): string {
  const bytes = Buffer.from(text);
  // Not in the middle of a character.
  return bytes.length <= 123 ? text : new TextDecoder().decode(bytes.subarray(0, 120), { stream: true });
}
