/**
 * Builds a value from the tokens of one message, with the error texts of QEMU's parser (`JSON parse error, …` is put in
 * front by the stream). A member `__proto__` is a member like any other; integers beyond 2^53 become bigint so that an `id` is echoed as it came.
 */
import { ProtocolError } from '../base/errors.ts';
import type { Token, TokenKind } from './json-lexer.ts';

/** What JSON text can hold. */
export type JsonValue = null | boolean | number | bigint | string | JsonValue[] | JsonObject;
/** A JSON object; of members of one name the last counts. */
export interface JsonObject {
  [key: string]: JsonValue;
}

const BACKSLASH = 0x5c;
const INT64_MIN = -(2n ** 63n);
const UINT64_MAX = 2n ** 64n - 1n;
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const NONCHARACTER = /\p{Noncharacter_Code_Point}/u;
const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
};

/** Throws ProtocolError with QEMU's text. The caller has bounded the nesting of `tokens`. */
export function parseTokens(tokens: readonly Token[]): JsonValue {
  return new TokenParser(tokens).value();
}

class TokenParser {
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  value(): JsonValue {
    const token = this.#tokens[this.#at++];
    if (!token) throw new ProtocolError('premature EOI');
    switch (token.kind) {
      case '{':
        return this.#object();
      case '[':
        return this.#array();
      case 'string':
        return decodeString(token.bytes);
      case 'integer':
        return decodeInteger(latin1(token.bytes));
      case 'float':
        return Number(latin1(token.bytes));
      case 'keyword':
        return decodeKeyword(latin1(token.bytes));
      default:
        throw new ProtocolError('expecting value');
    }
  }

  #object(): JsonObject {
    const object: JsonObject = {};
    if (this.#accept('}')) return object;
    for (;;) {
      const key = this.value();
      if (typeof key !== 'string') throw new ProtocolError('key is not a string in object');
      if (!this.#accept(':')) throw new ProtocolError('missing : in object pair');
      const value = this.value();
      if (Object.hasOwn(object, key)) throw new ProtocolError('duplicate key');
      if (key !== '__proto__') object[key] = value;
      else
        Object.defineProperty(object, key, { value, configurable: true, enumerable: true, writable: true });
      if (this.#accept('}')) return object;
      if (!this.#accept(',')) throw new ProtocolError('expected separator in dict');
    }
  }

  #array(): JsonValue[] {
    const array: JsonValue[] = [];
    if (this.#accept(']')) return array;
    for (;;) {
      array.push(this.value());
      if (this.#accept(']')) return array;
      if (!this.#accept(',')) throw new ProtocolError('expected separator in list');
    }
  }

  #accept(kind: TokenKind): boolean {
    if (this.#tokens[this.#at]?.kind !== kind) return false;
    this.#at++;
    return true;
  }
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
}

function decodeKeyword(word: string): JsonValue {
  if (word === 'true') return true;
  if (word === 'false') return false;
  if (word === 'null') return null;
  throw new ProtocolError(`invalid keyword '${word}'`);
}

function decodeInteger(text: string): JsonValue {
  const number = Number(text);
  if (Number.isSafeInteger(number)) return number === 0 ? 0 : number;
  // Longer ones are floating point to QEMU; and BigInt() of a million digits takes its time.
  if (text.length > 20) return number;
  const exact = BigInt(text);
  return exact >= INT64_MIN && exact <= UINT64_MAX ? exact : number;
}

/** A token with its quotes. Throws ProtocolError for a bad escape and for bytes that are not UTF-8. */
function decodeString(token: Uint8Array): string {
  const end = token.length - 1;
  let escape = token.indexOf(BACKSLASH);
  if (escape < 0) return decodeText(token.subarray(1, end));
  const parts: string[] = [];
  let at = 1;
  while (escape >= 0) {
    parts.push(decodeText(token.subarray(at, escape)));
    at = escape + 2;
    const letter = String.fromCharCode(token[escape + 1]!);
    const simple = Object.hasOwn(SIMPLE_ESCAPES, letter) ? SIMPLE_ESCAPES[letter] : undefined;
    if (simple !== undefined) parts.push(simple);
    else if (letter === 'u') {
      const unicode = decodeUnicodeEscape(token, escape);
      parts.push(unicode);
      at = escape + 6 * unicode.length;
    } else throw new ProtocolError('invalid escape sequence in string');
    escape = token.indexOf(BACKSLASH, at);
  }
  parts.push(decodeText(token.subarray(at, end)));
  return parts.join('');
}

function decodeText(bytes: Uint8Array): string {
  let text: string;
  try {
    text = UTF8.decode(bytes);
  } catch (cause) {
    throw new ProtocolError('invalid UTF-8 sequence in string', { cause });
  }
  if (NONCHARACTER.test(text)) throw new ProtocolError('invalid UTF-8 sequence in string');
  return text;
}

/** One UTF-16 unit per `\uXXXX`: a surrogate pair takes two. */
function decodeUnicodeEscape(token: Uint8Array, at: number): string {
  const high = hexUnit(token, at);
  const isHigh = high >= 0xd800 && high <= 0xdbff;
  const low = isHigh ? hexUnit(token, at + 6) : NaN;
  const paired = low >= 0xdc00 && low <= 0xdfff;
  const text = paired ? String.fromCharCode(high, low) : String.fromCharCode(high);
  const lone = (isHigh && !paired) || (high >= 0xdc00 && high <= 0xdfff);
  if (lone || Number.isNaN(high) || NONCHARACTER.test(text)) {
    throw new ProtocolError(`${latin1(token.subarray(at, at + 6))} is not a valid Unicode character`);
  }
  return text;
}

/** The number of `\uXXXX` at `at`; NaN when there is none. */
function hexUnit(token: Uint8Array, at: number): number {
  const text = latin1(token.subarray(at, at + 6));
  return /^\\u[0-9a-fA-F]{4}$/.test(text) ? parseInt(text.slice(2), 16) : NaN;
}
