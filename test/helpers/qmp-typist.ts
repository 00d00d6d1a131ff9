/**
 * A person at a QMP monitor: types lines as they stand in a document, single quotes and all, and reads what comes
 * back. Knows no more of QMP than that a line with `return` or `error` answers the last one typed.
 */
import type { Readable, Writable } from 'node:stream';
import { Deferred, withDeadline } from '../../src/base/async.ts';

export interface TypedEvent {
  readonly event: string;
  readonly data?: Record<string, unknown>;
}

interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

export class QmpTypist {
  readonly events: TypedEvent[] = [];
  readonly #output: Writable;
  #text = '';
  readonly #answers: Deferred<Answer>[] = [];
  readonly #greeted = new Deferred<void>();
  #watchers: (() => void)[] = [];

  constructor(input: Readable, output: Writable) {
    this.#output = output;
    input.on('data', (chunk: Buffer | string) => this.#take(String(chunk)));
  }

  /** Resolves with the greeting. */
  greeted(timeoutMs: number): Promise<void> {
    return withDeadline(this.#greeted.promise, timeoutMs, 'QMP greeting');
  }

  /** Types a line; resolves with what `return` held. Rejects with QEMU's class and text on an error. */
  async type(line: string, timeoutMs = 60_000): Promise<unknown> {
    const answer = new Deferred<Answer>();
    this.#answers.push(answer);
    this.#output.write(`${line}\n`);
    const got = await withDeadline(answer.promise, timeoutMs, line);
    if (got.error) throw new Error(`${got.error.class}: ${got.error.desc}`);
    return got.return;
  }

  /** Types lines in turn. */
  async typeAll(lines: readonly string[]): Promise<void> {
    for (const line of lines) await this.type(line);
  }

  /** Names of the events since `from`, without those in `but`. */
  names(from = 0, but: readonly string[] = []): string[] {
    return this.events.slice(from).flatMap(({ event }) => (but.includes(event) ? [] : [event]));
  }

  /** The first event of that name at or after position `from`, now or later. */
  async event(name: string, from: number, timeoutMs: number): Promise<TypedEvent> {
    const find = (): TypedEvent | undefined => this.events.slice(from).find(({ event }) => event === name);
    const found = new Deferred<TypedEvent>();
    const look = (): void => {
      const event = find();
      if (event) found.resolve(event);
    };
    this.#watchers.push(look);
    look();
    return withDeadline(found.promise, timeoutMs, `event ${name} (so far: ${this.names(from).join(' ')})`);
  }

  #take(chunk: string): void {
    this.#text += chunk;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end).trim();
      this.#text = this.#text.slice(end + 1);
      if (line === '') continue;
      const message = JSON.parse(line) as TypedEvent & Answer & { QMP?: unknown };
      if (message.QMP) this.#greeted.resolve();
      else if (message.event) {
        this.events.push(message);
        for (const watcher of this.#watchers) watcher();
      } else this.#answers.shift()?.resolve(message);
    }
  }
}
