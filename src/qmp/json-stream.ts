/**
 * QMP's message stream: any number of JSON values, apart from white space with nothing between them, cut into chunks
 * anywhere (QEMU qobject/json-streamer.c for the behaviour). A message ends where its brackets balance. After an error
 * the stream goes on with what follows. Output is ASCII, one message per CRLF line.
 */
import { messageOf } from '../base/errors.ts';
import { JsonLexer } from './json-lexer.ts';
import type { Token } from './json-lexer.ts';
import { parseTokens } from './json-parser.ts';
import type { JsonValue } from './json-parser.ts';

export type { JsonObject, JsonValue } from './json-parser.ts';

/** Limits of one message. QEMU's are 64 MiB, 2 Mi tokens and 1024. */
export interface JsonLimits {
  readonly messageBytes: number;
  readonly tokens: number;
  readonly nesting: number;
}

export const JSON_LIMITS: JsonLimits = { messageBytes: 16 * 1024 * 1024, tokens: 1024 * 1024, nesting: 1024 };

export interface JsonStreamSink {
  onMessage(value: JsonValue): void;
  /** A message was dropped. `text` is QEMU's, e.g. `JSON parse error, expecting value`. */
  onError(text: string): void;
}

export class JsonStream {
  readonly #sink: JsonStreamSink;
  readonly #limits: JsonLimits;
  readonly #lexer: JsonLexer;
  #tokens: Token[] = [];
  #bytes = 0;
  #braces = 0;
  #brackets = 0;

  constructor(sink: JsonStreamSink, limits: JsonLimits = JSON_LIMITS) {
    this.#sink = sink;
    this.#limits = limits;
    this.#lexer = new JsonLexer(
      {
        onToken: (token) => this.#take(token),
        onStray: (bytes) => this.#fail(`JSON parse error, stray '${strayText(bytes)}'`),
        onOversized: () => this.#fail('JSON token size limit exceeded'),
      },
      limits.messageBytes,
    );
  }

  /** The sink is called before this returns. The chunk may be reused afterwards. */
  push(chunk: Uint8Array): void {
    this.#lexer.push(chunk);
  }

  /** No more input: a trailing `1` or `true` is a message now. */
  end(): void {
    this.#lexer.end();
  }

  #take(token: Token): void {
    if (token.kind === '{') this.#braces++;
    else if (token.kind === '}') this.#braces--;
    else if (token.kind === '[') this.#brackets++;
    else if (token.kind === ']') this.#brackets--;
    this.#tokens.push(token);
    this.#bytes += token.bytes.length;
    if (this.#bytes > this.#limits.messageBytes) this.#fail('JSON token size limit exceeded');
    else if (this.#tokens.length > this.#limits.tokens) this.#fail('JSON token count limit exceeded');
    else if (this.#braces + this.#brackets > this.#limits.nesting)
      this.#fail('JSON nesting depth limit exceeded');
    else if (this.#braces < 0 || this.#brackets < 0 || (this.#braces === 0 && this.#brackets === 0))
      this.#complete();
  }

  #complete(): void {
    const tokens = this.#tokens;
    this.#reset();
    let value: JsonValue;
    try {
      value = parseTokens(tokens);
    } catch (error) {
      this.#sink.onError(`JSON parse error, ${messageOf(error)}`);
      return;
    }
    this.#sink.onMessage(value);
  }

  #fail(text: string): void {
    this.#reset();
    this.#sink.onError(text);
  }

  #reset(): void {
    this.#tokens = [];
    this.#bytes = 0;
    this.#braces = 0;
    this.#brackets = 0;
  }
}

/** Longest piece of bad input that an error repeats, in bytes. */
const STRAY_LIMIT_BYTES = 200;

/** As QEMU shows it: up to the first zero byte, what is not UTF-8 replaced. */
function strayText(bytes: Uint8Array): string {
  const zero = bytes.indexOf(0);
  const shown = bytes.subarray(0, zero < 0 ? bytes.length : zero);
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(shown.subarray(0, STRAY_LIMIT_BYTES));
}

/**
 * One value as ASCII JSON in QEMU's spacing, without line end. Members that are undefined are left out. What JSON cannot
 * say (NaN) is null.
 */
export function stringifyJson(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return quote(value);
    case 'boolean':
    case 'bigint':
      return String(value);
    case 'number':
      if (Number.isFinite(value)) return String(value);
      return Number.isNaN(value) ? 'null' : value > 0 ? '1e999' : '-1e999';
    case 'object': {
      if (value === null) return 'null';
      if (Array.isArray(value)) return `[${value.map(stringifyJson).join(', ')}]`;
      const members = Object.entries(value).filter(([, member]) => member !== undefined);
      return `{${members.map(([key, member]) => `${quote(key)}: ${stringifyJson(member)}`).join(', ')}}`;
    }
    default:
      return 'null';
  }
}

function quote(text: string): string {
  // JSON.stringify escapes quotes, control characters and lone surrogates; the rest is everything beyond ASCII.
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
  });
}
