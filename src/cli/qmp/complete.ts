/**
 * What Tab offers in the QMP shell: commands, then `key=` (`key.` where members follow), then values: of enumerations, true
 * and false, and names of things that are there, which the caller looks up. Pure but for that.
 */
import type { JsonObject } from '../../qmp/json-stream.ts';
import type { ArgumentMember, ArgumentType } from './argument-types.ts';
import { argumentsOf, splitWords } from './line.ts';

export interface Catalog {
  readonly commands: readonly string[];
  argumentsOf(command: string): ArgumentType | null;
}

/** Names that an argument may have now: of devices, nodes, jobs. `key` is its last part. */
export type NamesOf = (command: string, key: string, args: JsonObject) => Promise<readonly string[]>;

export interface Offer {
  /** Each in place of `word`; the only one has a blank behind it. */
  readonly words: readonly string[];
  /** The end of the line that they replace. */
  readonly word: string;
}

const NOTHING: Offer = { words: [], word: '' };

/** `line`: up to the cursor. */
export async function complete(line: string, catalog: Catalog, namesOf: NamesOf): Promise<Offer> {
  if (/^\s*\{/.test(line)) return NOTHING;
  const { words, open } = splitWords(line);
  const isNew = words.length === 0 || (open === null && /\s$/.test(line));
  const before = isNew ? words : words.slice(0, -1);
  const word = isNew ? '' : line.slice(words.at(-1)?.at ?? 0);
  const [command, ...rest] = before;
  if (!command) return offer(word, catalog.commands, ' ');
  if (command.text === 'help') return rest.length > 0 ? NOTHING : offer(word, catalog.commands, ' ');
  // What is in quotes or brackets is the typist's own.
  if (/["'{[]/.test(word)) return NOTHING;
  const root = catalog.argumentsOf(command.text);
  const args = readable(rest);
  const equals = word.indexOf('=');
  const path = (equals < 0 ? word : word.slice(0, equals)).split('.');
  const leaf = path.pop() ?? '';
  const place = root && descend(root, args, path);
  if (equals < 0) {
    if (!place) return NOTHING;
    const prefix = path.map((part) => `${part}.`).join('');
    const free = place.members.filter(({ name, type }) => !Object.hasOwn(place.given, name) || type.isObject);
    return offer(word, free.map(keyOf(prefix)), '');
  }
  const key = word.slice(0, equals + 1);
  const member = place?.members.find(({ name }) => name === leaf);
  const fixed = member?.type.values ?? [];
  const values = fixed.length > 0 ? fixed : await namesOf(command.text, leaf, args);
  return offer(
    word,
    values.filter(isPlain).map((value) => key + value),
    ' ',
  );
}

function keyOf(prefix: string): (member: ArgumentMember) => string {
  return ({ name, type }) => `${prefix}${name}${type.isObject ? '.' : '='}`;
}

/** The names' own quotes would have to be typed too. */
function isPlain(value: string): boolean {
  return !/[\s"'\\\u0000-\u001f\u007f-\u009f]/.test(value);
}

function offer(word: string, candidates: readonly string[], end: string): Offer {
  const words = [...new Set(candidates)].filter((candidate) => candidate.startsWith(word)).sort();
  const [only] = words;
  return { words: words.length === 1 && only !== undefined ? [only + end] : words, word };
}

/** Whatever of it can be read. */
function readable(words: Parameters<typeof argumentsOf>[0]): JsonObject {
  try {
    return argumentsOf(words);
  } catch {
    return words.length === 0 ? {} : readable(words.slice(0, -1));
  }
}

interface Place {
  readonly members: readonly ArgumentMember[];
  readonly given: Readonly<Record<string, unknown>>;
}

function descend(root: ArgumentType, args: JsonObject, path: readonly string[]): Place | null {
  let type = root;
  let given: Readonly<Record<string, unknown>> = args;
  for (const part of path) {
    const member = type.members(given).find(({ name }) => name === part);
    if (!member) return null;
    type = member.type;
    const below: unknown = Object.hasOwn(given, part) ? given[part] : undefined;
    given = typeof below === 'object' && below !== null ? (below as Record<string, unknown>) : {};
  }
  return { members: type.members(given), given };
}
