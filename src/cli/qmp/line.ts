/**
 * A line of the QMP shell: `command key=value a.b=value`, as QEMU's qmp-shell has it, or a whole request in JSON. Pure.
 *
 * As there (QEMU python/qemu/qmp/qmp_shell.py, its description): whole numbers, `true` and `false` are that; what begins
 * with a bracket is JSON, single quotes accepted; everything else is a string. Ours: blanks inside brackets do not end a
 * word, what is in quotes is always a string, `null` is null.
 */
import { ParameterError } from '../../base/errors.ts';
import { JsonStream, type JsonObject, type JsonValue } from '../../qmp/json-stream.ts';
import { isJsonObject, parseRequest } from '../../qmp/request.ts';

export interface QmpLine {
  readonly command: string;
  readonly args: JsonObject;
}

/** A word with its quotes taken off. */
export interface Word {
  readonly text: string;
  /** Some of what follows the first `=` (of all, without one) was in quotes. */
  readonly isQuoted: boolean;
  /** Where it begins in the line. */
  readonly at: number;
}

export interface Words {
  readonly words: readonly Word[];
  /** What has been opened and not closed: a quote, or a bracket. */
  readonly open: string | null;
}

/** Null: nothing on the line. Throws ParameterError. */
export function parseLine(line: string): QmpLine | null {
  const text = line.trim();
  if (text === '' || text.startsWith('#')) return null;
  if (text.startsWith('{')) return requestOf(parseJson(text));
  const { words, open } = splitWords(text);
  if (open !== null) throw new ParameterError(`${open} is not closed`);
  const [command, ...rest] = words;
  return { command: command?.text ?? '', args: argumentsOf(rest) };
}

/** Words that a shell has split: its quotes are gone, but `id="1"` may have brought its own. Throws ParameterError. */
export function parseWords(given: readonly string[]): QmpLine {
  const [command = '', ...rest] = given;
  if (command.trimStart().startsWith('{')) {
    if (rest.length > 0) throw new ParameterError(`nothing may follow a request in JSON: ${rest.join(' ')}`);
    return requestOf(parseJson(command));
  }
  const words = rest.map((text): Word => {
    const [, key = '', value = ''] = /^([^={[]*=)("[^]*")$/.exec(text) ?? [];
    const inner = value === '' ? null : parseJson(value);
    return typeof inner === 'string'
      ? { text: key + inner, isQuoted: true, at: 0 }
      : { text, isQuoted: false, at: 0 };
  });
  return { command, args: argumentsOf(words) };
}

function requestOf(message: JsonValue): QmpLine {
  const { command, args } = parseRequest(message, false);
  return { command, args };
}

/** One value. Throws ParameterError with QEMU's text. */
export function parseJson(text: string): JsonValue {
  const found: JsonValue[] = [];
  const wrong: string[] = [];
  const stream = new JsonStream({
    onMessage: (value) => found.push(value),
    onError: (message) => wrong.push(message),
  });
  stream.push(Buffer.from(text));
  // Its lexer takes the end of input for the end of the last token; an open bracket is then still open.
  stream.end();
  if (wrong[0] !== undefined) throw new ParameterError(wrong[0]);
  const [value] = found;
  if (value === undefined) throw new ParameterError('JSON parse error, premature EOI');
  if (found.length > 1) throw new ParameterError('JSON parse error, one value is expected');
  return value;
}

/** `a=1 b.c=x {"d": true}` as one object. Throws ParameterError. */
export function argumentsOf(words: readonly Word[]): JsonObject {
  const args: JsonObject = {};
  for (const word of words) {
    const { text, isQuoted } = word;
    if (text.startsWith('{') && !isQuoted) {
      const members = parseJson(text);
      if (!isJsonObject(members)) throw new ParameterError(`Expected a JSON object, got '${text}'`);
      for (const [key, value] of Object.entries(members)) put(args, [key], key, value);
      continue;
    }
    const equals = text.indexOf('=');
    if (equals < 0) throw new ParameterError(`Expected a key=value pair, got '${text}'`);
    const key = text.slice(0, equals);
    const value = text.slice(equals + 1);
    put(args, key.split('.'), key, isQuoted ? value : parseValue(value));
  }
  return args;
}

function put(root: JsonObject, path: readonly string[], key: string, value: JsonValue): void {
  let parent = root;
  for (const [at, part] of path.entries()) {
    const here = Object.hasOwn(parent, part) ? parent[part] : undefined;
    if (at === path.length - 1) {
      if (here === undefined) define(parent, part, value);
      else if (isJsonObject(here))
        throw new ParameterError(`Cannot use "${key}" as both leaf and non-leaf key`);
      else throw new ParameterError(`Cannot set "${key}" multiple times`);
    } else if (here === undefined) {
      const below: JsonObject = {};
      define(parent, part, below);
      parent = below;
    } else if (isJsonObject(here)) parent = here;
    else {
      const leaf = path.slice(0, at + 1).join('.');
      throw new ParameterError(`Cannot use "${leaf}" as both leaf and non-leaf key`);
    }
  }
}

/** `__proto__` is a key like any other. */
function define(object: JsonObject, key: string, value: JsonValue): void {
  Object.defineProperty(object, key, { value, configurable: true, enumerable: true, writable: true });
}

/** Of what stood outside quotes. Throws ParameterError for a bracket that begins no JSON. */
export function parseValue(text: string): JsonValue {
  if (/^[+-]?\d+$/.test(text)) {
    const number = Number(text);
    return Number.isSafeInteger(number) ? number || 0 : parseJson(text.replace(/^\+/, ''));
  }
  if (/^true$/i.test(text)) return true;
  if (/^false$/i.test(text)) return false;
  if (text === 'null') return null;
  return text.startsWith('{') || text.startsWith('[') ? parseJson(text) : text;
}

/** Never throws: a line that is being typed has open ends. */
export function splitWords(line: string): Words {
  const words: Word[] = [];
  let at = 0;
  for (;;) {
    while (at < line.length && isBlank(line[at])) at++;
    if (at >= line.length) return { words, open: null };
    const begin = at;
    let text = '';
    let isQuoted = false;
    let open: string | null = null;
    while (at < line.length && !isBlank(line[at])) {
      const character = line[at]!;
      if (character === '"' || character === "'") {
        const piece = quoted(line, at);
        text += piece.text;
        at = piece.end;
        open = piece.isClosed ? null : `a quote (${character})`;
        isQuoted = true;
      } else if (
        (character === '{' || character === '[') &&
        (text === '' || text.endsWith('=')) &&
        !isQuoted
      ) {
        const end = endOfBrackets(line, at);
        text += line.slice(at, end ?? line.length);
        at = end ?? line.length;
        open = end === null ? `a bracket (${character})` : null;
      } else {
        // A key's quotes say nothing of its value.
        if (character === '=' && !text.includes('=')) isQuoted = false;
        text += character;
        at++;
      }
    }
    words.push({ text, isQuoted, at: begin });
    if (open !== null) return { words, open };
  }
}

function isBlank(character: string | undefined): boolean {
  return character !== undefined && /\s/.test(character);
}

/** What is in the quotes that open at `at`. In double quotes a backslash protects a quote and itself. */
function quoted(line: string, at: number): { text: string; end: number; isClosed: boolean } {
  const quote = line[at];
  let text = '';
  for (let next = at + 1; next < line.length; next++) {
    const character = line[next]!;
    if (character === quote) return { text, end: next + 1, isClosed: true };
    const after = line[next + 1];
    if (quote === '"' && character === '\\' && (after === '"' || after === '\\')) {
      text += after;
      next++;
    } else text += character;
  }
  return { text, end: line.length, isClosed: false };
}

/** Behind the bracket that closes the one at `at`; null: there is none. */
function endOfBrackets(line: string, at: number): number | null {
  let depth = 0;
  let quote: string | null = null;
  for (let next = at; next < line.length; next++) {
    const character = line[next]!;
    if (quote !== null) {
      if (character === '\\') next++;
      else if (character === quote) quote = null;
    } else if (character === '"' || character === "'") quote = character;
    else if (character === '{' || character === '[') depth++;
    else if ((character === '}' || character === ']') && --depth === 0) return next + 1;
  }
  return null;
}
