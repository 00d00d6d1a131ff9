/**
 * Reads the values of one map of a file: by key, each with its type, unknown keys last. What is wrong is noted with its
 * place and does not end the reading, so that a person hears of everything at once; a value that is wrong reads as
 * absent.
 */
import { nearest, bytesOf, millisecondsOf, sizeText } from './quantities.ts';
import type { Problem } from './spec-error.ts';
import { short } from './yaml-tree.ts';
import type { Place, Tree } from './yaml-tree.ts';

export class Problems {
  readonly list: Problem[] = [];

  add(at: Place, path: string, message: string): void {
    // One file cannot make many: what is told is bounded, and so is what is kept.
    if (this.list.length < 1000) this.list.push({ line: at.line, column: at.column, path, message });
  }
}

export interface TextRule {
  readonly pattern: RegExp;
  /** `1 to 63 of a-z, 0-9 and '-'`: behind "has to be". */
  readonly is: string;
}

export class Section {
  readonly path: string;
  readonly at: Place;
  readonly #problems: Problems;
  readonly #entries: ReadonlyMap<string, { readonly at: Place; readonly value: Tree }>;
  readonly #known = new Set<string>();

  /** Null, with a note, when `tree` is no map. */
  static of(tree: Tree, path: string, problems: Problems, due = 'a map of keys'): Section | null {
    if (tree.kind === 'map') return new Section(tree, path, problems);
    problems.add(tree.at, path, `${due} is due, not ${kindOf(tree)}`);
    return null;
  }

  private constructor(tree: Extract<Tree, { kind: 'map' }>, path: string, problems: Problems) {
    this.path = path;
    this.at = tree.at;
    this.#entries = tree.entries;
    this.#problems = problems;
  }

  pathOf(key: string): string {
    return this.path === '' ? key : `${this.path}.${key}`;
  }

  has(key: string): boolean {
    this.#known.add(key);
    return this.#entries.has(key);
  }

  /** The value as it is; null when the key is not there. A key without a value counts as wrong. */
  tree(key: string): Tree | null {
    this.#known.add(key);
    const entry = this.#entries.get(key);
    if (!entry) return null;
    if (entry.value.kind === 'scalar' && entry.value.value === null) {
      this.#problems.add(entry.at, this.pathOf(key), 'has no value; give one, or leave the key out');
      return null;
    }
    return entry.value;
  }

  /** Notes that something is wrong with a key's value, or, if it is not there, with this map. */
  wrong(key: string, message: string): void {
    const entry = this.#entries.get(key);
    this.#problems.add(entry?.value.at ?? this.at, this.pathOf(key), message);
  }

  missing(key: string, message: string): void {
    this.#problems.add(this.at, this.pathOf(key), `is missing; ${message}`);
  }

  text(key: string, rule?: TextRule): string | undefined {
    const tree = this.tree(key);
    return tree ? textOf(tree, this.pathOf(key), this.#problems, rule) : undefined;
  }

  oneOf<T extends string>(key: string, words: readonly T[]): T | undefined {
    const text = this.text(key);
    if (text === undefined) return undefined;
    const found = words.find((word) => word === text);
    if (found === undefined) {
      const meant = nearest(text, words);
      this.wrong(
        key,
        `'${short(text)}' is none of ${words.join(', ')}${meant === null ? '' : `; did you mean '${meant}'?`}`,
      );
    }
    return found;
  }

  integer(key: string, least: number, most: number): number | undefined {
    const tree = this.tree(key);
    if (!tree) return undefined;
    const value = tree.kind === 'scalar' ? tree.value : null;
    if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return value;
    this.wrong(key, `a whole number from ${least} to ${most} is due, not ${shownOf(tree)}`);
    return undefined;
  }

  /** Bytes. `unit`: of a number without a letter; 0: it needs a letter. */
  size(
    key: string,
    { least, most, unit, example }: { least: number; most: number; unit: number; example: string },
  ): number | undefined {
    const tree = this.tree(key);
    if (!tree) return undefined;
    const value = tree.kind === 'scalar' ? tree.value : null;
    const isText = typeof value === 'string' || typeof value === 'number';
    const bytes = isText && !(unit === 0 && /^[0-9.]+$/.test(String(value))) ? bytesOf(value, unit) : null;
    if (bytes === null) {
      this.wrong(key, `a size such as ${example} is due, not ${shownOf(tree)}`);
      return undefined;
    }
    if (bytes >= least && bytes <= most) return bytes;
    this.wrong(key, `${sizeText(bytes)} is out of range: ${sizeText(least)} to ${sizeText(most)}`);
    return undefined;
  }

  /** Milliseconds. */
  duration(key: string, leastMs: number, mostMs: number): number | undefined {
    const tree = this.tree(key);
    if (!tree) return undefined;
    const value = tree.kind === 'scalar' ? tree.value : null;
    const ms = typeof value === 'string' ? millisecondsOf(value) : null;
    if (ms === null) {
      this.wrong(key, `a duration such as 500ms or 2s is due, not ${shownOf(tree)}`);
      return undefined;
    }
    if (ms >= leastMs && ms <= mostMs) return ms;
    this.wrong(key, `${ms} ms is out of range: ${leastMs} to ${mostMs} ms`);
    return undefined;
  }

  /** A map below this one; undefined when it is not there. */
  section(key: string): Section | undefined {
    const tree = this.tree(key);
    return tree ? (Section.of(tree, this.pathOf(key), this.#problems) ?? undefined) : undefined;
  }

  /** The elements of a list with their paths; one value alone stands for a list of one. Empty when it is not there. */
  list(key: string, most: number): { readonly tree: Tree; readonly path: string }[] {
    const tree = this.tree(key);
    if (!tree) return [];
    if (tree.kind !== 'list') return [{ tree, path: this.pathOf(key) }];
    if (tree.items.length > most) {
      this.wrong(key, `${tree.items.length} are too many: at most ${most}`);
      return [];
    }
    return tree.items.map((item, at) => ({ tree: item, path: `${this.pathOf(key)}[${at}]` }));
  }

  texts(key: string, most: number, rule?: TextRule): string[] {
    return this.list(key, most).flatMap(({ tree, path }) => {
      const text = textOf(tree, path, this.#problems, rule);
      return text === undefined ? [] : [text];
    });
  }

  /** To be called when every key has been read: notes those that nobody knows. */
  end(): void {
    const known = [...this.#known];
    for (const [key, { at }] of this.#entries) {
      if (this.#known.has(key)) continue;
      const meant = nearest(key, known);
      const hint = meant === null ? `known are ${known.join(', ')}` : `did you mean '${meant}'?`;
      this.#problems.add(at, this.pathOf(short(key)), `is no key here; ${hint}`);
    }
  }
}

/** A text that keeps to `rule`, or undefined with a note. */
export function textOf(tree: Tree, path: string, problems: Problems, rule?: TextRule): string | undefined {
  const value = tree.kind === 'scalar' ? tree.value : null;
  if (typeof value !== 'string') {
    const hint = tree.kind === 'scalar' && value !== null ? `; write '${String(value)}' in quotes` : '';
    problems.add(tree.at, path, `a text is due, not ${shownOf(tree)}${hint}`);
    return undefined;
  }
  if (value.length > MAX_TEXT_CHARS || value.includes('\0')) {
    problems.add(tree.at, path, `at most ${MAX_TEXT_CHARS} letters are due, and no zero byte`);
    return undefined;
  }
  if (!rule || rule.pattern.test(value)) return value;
  problems.add(tree.at, path, `'${short(value)}' has to be ${rule.is}`);
  return undefined;
}

const MAX_TEXT_CHARS = 4096;

function kindOf(tree: Tree): string {
  if (tree.kind === 'map') return 'a map of keys';
  if (tree.kind === 'list') return 'a list';
  if (tree.value === null) return 'nothing';
  if (typeof tree.value === 'string') return 'a text';
  return typeof tree.value === 'number' ? 'a number' : 'true or false';
}

function shownOf(tree: Tree): string {
  return tree.kind === 'scalar' && tree.value !== null ? `'${short(String(tree.value))}'` : kindOf(tree);
}
