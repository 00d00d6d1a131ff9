/**
 * Cuts a byte stream into the tokens of QEMU's JSON dialect: JSON, and 'single quoted' strings. Chunks may end anywhere.
 * After bytes that cannot begin or continue a token it reports them and skips on to the next structural character
 * or control character other than tab, or 0xfe or 0xff, so that one broken message costs no more than itself.
 * Escapes and UTF-8 inside strings are the parser's affair (json-parser.ts). Behaviour as observed on QEMU 7.2.
 */

export type TokenKind = '{' | '}' | '[' | ']' | ':' | ',' | 'string' | 'integer' | 'float' | 'keyword';

export interface Token {
  readonly kind: TokenKind;
  /** The token as it came, quotes included. */
  readonly bytes: Uint8Array;
}

export interface LexerSink {
  onToken(token: Token): void;
  /** Bytes that are no token, the offending one last. */
  onStray(bytes: Uint8Array): void;
  /** A token outgrew the limit; what came of it is dropped. */
  onOversized(): void;
}

type State =
  | 'start'
  | 'recovery'
  | 'string'
  | 'escape'
  | 'keyword'
  | 'minus'
  | 'zero'
  | 'digits'
  | 'point'
  | 'fraction'
  | 'exponent'
  | 'exponentSign'
  | 'exponentDigits';

const QUOTE = 0x22;
const APOSTROPHE = 0x27;
const BACKSLASH = 0x5c;
const STRUCTURAL: ReadonlyMap<number, TokenKind> = new Map(
  (['{', '}', '[', ']', ':', ','] as const).map((kind) => [kind.charCodeAt(0), kind]),
);

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
const isLower = (byte: number): boolean => byte >= 0x61 && byte <= 0x7a;
const isBlank = (byte: number): boolean => byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d;
const isExponentMark = (byte: number): boolean => byte === 0x65 || byte === 0x45;
/** Bytes that may stand inside a string. */
const isText = (byte: number): boolean => byte >= 0x20 && byte <= 0xfd;
const endsRecovery = (byte: number): boolean => (byte < 0x20 && byte !== 0x09) || byte >= 0xfe;

/** What a number that ends in this state is; absent where it may not end. */
const NUMBER_KIND: Partial<Record<State, TokenKind>> = {
  zero: 'integer',
  digits: 'integer',
  fraction: 'float',
  exponentDigits: 'float',
};

export class JsonLexer {
  readonly #sink: LexerSink;
  readonly #limitBytes: number;
  #state: State = 'start';
  #quote = QUOTE;
  /** The part of the current token that came in earlier chunks. */
  #carry = Buffer.alloc(0);
  #carried = 0;

  constructor(sink: LexerSink, limitBytes: number) {
    this.#sink = sink;
    this.#limitBytes = limitBytes;
  }

  push(chunk: Uint8Array): void {
    // Where the current token began in this chunk; it is 0 for one begun earlier.
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at]!;
      if (this.#state === 'string') {
        // The bulk of long messages: no call per byte.
        if (byte === this.#quote) this.#emit('string', chunk, start, at + 1);
        else if (byte === BACKSLASH) this.#state = 'escape';
        else if (!isText(byte)) this.#stray(chunk, start, at + 1);
        continue;
      }
      if (this.#state === 'start' || this.#state === 'recovery') {
        start = at;
        this.#begin(chunk, at, byte);
        continue;
      }
      const next = this.#advance(byte);
      if (next === 'error') this.#stray(chunk, start, at + 1);
      else if (next === 'done') {
        const kind = this.#state === 'keyword' ? 'keyword' : NUMBER_KIND[this.#state]!;
        this.#emit(kind, chunk, start, at);
        start = at;
        this.#begin(chunk, at, byte);
      } else this.#state = next;
    }
    if (this.#state !== 'start' && this.#state !== 'recovery') this.#keep(chunk.subarray(start));
  }

  /** The input ends: a number or keyword may have been waiting for its end. An unfinished string is dropped. */
  end(): void {
    this.push(Uint8Array.of(0x0a));
  }

  #begin(chunk: Uint8Array, at: number, byte: number): void {
    const kind = STRUCTURAL.get(byte);
    if (kind !== undefined) this.#emit(kind, chunk, at, at + 1);
    else if (this.#state === 'recovery') {
      if (endsRecovery(byte)) this.#state = 'start';
    } else if (isBlank(byte)) return;
    else if (byte === QUOTE || byte === APOSTROPHE) {
      this.#quote = byte;
      this.#state = 'string';
    } else if (byte === 0x30) this.#state = 'zero';
    else if (isDigit(byte)) this.#state = 'digits';
    else if (byte === 0x2d) this.#state = 'minus';
    else if (isLower(byte)) this.#state = 'keyword';
    else this.#stray(chunk, at, at + 1);
  }

  /** The state after `byte` within a token; 'done' when the token ended before it. */
  #advance(byte: number): State | 'error' | 'done' {
    switch (this.#state) {
      case 'escape':
        return isText(byte) ? 'string' : 'error';
      case 'keyword':
        return isLower(byte) ? 'keyword' : 'done';
      case 'minus':
        if (byte === 0x30) return 'zero';
        return isDigit(byte) ? 'digits' : 'error';
      case 'zero':
      case 'digits':
        if (isDigit(byte)) return this.#state === 'zero' ? 'error' : 'digits';
        if (byte === 0x2e) return 'point';
        return isExponentMark(byte) ? 'exponent' : 'done';
      case 'point':
        return isDigit(byte) ? 'fraction' : 'error';
      case 'fraction':
        if (isDigit(byte)) return 'fraction';
        return isExponentMark(byte) ? 'exponent' : 'done';
      case 'exponent':
        if (byte === 0x2b || byte === 0x2d) return 'exponentSign';
        return isDigit(byte) ? 'exponentDigits' : 'error';
      case 'exponentSign':
        return isDigit(byte) ? 'exponentDigits' : 'error';
      case 'exponentDigits':
        return isDigit(byte) ? 'exponentDigits' : 'done';
      default:
        return 'error';
    }
  }

  #emit(kind: TokenKind, chunk: Uint8Array, start: number, end: number): void {
    this.#state = 'start';
    this.#sink.onToken({ kind, bytes: this.#take(chunk, start, end) });
  }

  #stray(chunk: Uint8Array, start: number, end: number): void {
    this.#state = 'recovery';
    this.#sink.onStray(this.#take(chunk, start, end));
  }

  /** The whole token as memory of its own. */
  #take(chunk: Uint8Array, start: number, end: number): Uint8Array {
    const rest = chunk.subarray(start, end);
    if (this.#carried === 0) return Uint8Array.prototype.slice.call(rest);
    const token = Buffer.concat([this.#carry.subarray(0, this.#carried), rest]);
    this.#dropCarry();
    return token;
  }

  #keep(part: Uint8Array): void {
    const length = this.#carried + part.length;
    if (length > this.#limitBytes) {
      this.#dropCarry();
      this.#state = 'recovery';
      this.#sink.onOversized();
      return;
    }
    if (length > this.#carry.length) {
      const larger = Buffer.alloc(Math.max(length, 2 * this.#carry.length, 256));
      larger.set(this.#carry.subarray(0, this.#carried));
      this.#carry = larger;
    }
    this.#carry.set(part, this.#carried);
    this.#carried = length;
  }

  #dropCarry(): void {
    this.#carried = 0;
    if (this.#carry.length > 65536) this.#carry = Buffer.alloc(0);
  }
}
