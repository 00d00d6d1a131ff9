/**
 * A YAML 1.2 file as a plain tree in which everything knows its line and column. One document; text, numbers, true and
 * false, null, lists, maps with texts as keys. Anchors may be used, but neither they nor nesting make the tree large:
 * what a file may unfold to has bounds. Readers of the tree are in section.ts.
 */
import { open } from 'node:fs/promises';
import { LineCounter, isAlias, isMap, isScalar, isSeq, parseAllDocuments } from 'yaml';
import type { Document } from 'yaml';
import { ColoError, messageOf } from '../../base/errors.ts';
import { SpecFileError } from './spec-error.ts';
import type { Problem } from './spec-error.ts';

export const MAX_SPEC_FILE_BYTES = 64 * 1024;
const MAX_DEPTH = 16;
const MAX_NODES = 10_000;

export interface Place {
  readonly line: number;
  readonly column: number;
}

export type Tree =
  | { readonly kind: 'map'; readonly at: Place; readonly entries: ReadonlyMap<string, Entry> }
  | { readonly kind: 'list'; readonly at: Place; readonly items: readonly Tree[] }
  | { readonly kind: 'scalar'; readonly at: Place; readonly value: string | number | boolean | null };

export interface Entry {
  /** Of the key. */
  readonly at: Place;
  readonly value: Tree;
}

/** The text of a small file. Throws SpecFileError. */
export async function readSpecFile(file: string): Promise<string> {
  let handle;
  try {
    handle = await open(file, 'r');
    if (!(await handle.stat()).isFile()) throw new ColoError('it is no plain file');
    // One byte more than is read on: a file that is too large shows, and costs no more.
    const buffer = Buffer.alloc(MAX_SPEC_FILE_BYTES + 1);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } catch (cause) {
    const problem = { line: 1, column: 1, path: '', message: `cannot be read: ${messageOf(cause)}` };
    throw new SpecFileError(file, [problem], { cause });
  } finally {
    await handle?.close();
  }
}

/** Throws SpecFileError and nothing else, whatever the text is. */
export function parseYaml(file: string, text: string): Tree {
  const start = { line: 1, column: 1 };
  const fail = (message: string, at: Place = start, cause?: unknown): never => {
    throw new SpecFileError(file, [{ ...at, path: '', message }], { cause });
  };
  if (Buffer.byteLength(text) > MAX_SPEC_FILE_BYTES)
    fail(`the file is too large: at most ${MAX_SPEC_FILE_BYTES} bytes`);
  const lines = new LineCounter();
  const placeOf = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  try {
    const parsed = parseAllDocuments(text, {
      lineCounter: lines,
      prettyErrors: false,
      logLevel: 'silent',
      version: '1.2',
    });
    const documents: readonly Document[] = Array.isArray(parsed) ? parsed : [];
    const problems = documents.flatMap(({ errors }) =>
      errors.map(({ pos, message }) => ({ ...placeOf(pos[0]), path: '', message: lineOf(message) })),
    );
    if (problems.length > 0) throw new SpecFileError(file, problems);
    const [document, second] = documents;
    if (!document?.contents) return fail('the file is empty');
    if (second) fail('one document is due, not several', placeOf(second.range?.[0] ?? 0));
    return new Builder(document, placeOf).build();
  } catch (cause) {
    if (cause instanceof SpecFileError) throw cause;
    if (cause instanceof TreeError) throw new SpecFileError(file, [cause.problem]);
    // A nesting that its parser's own stack does not bear, for one.
    return fail(`the file cannot be read as YAML: ${lineOf(messageOf(cause))}`, start, cause);
  }
}

class TreeError extends Error {
  readonly problem: Problem;

  constructor(at: Place, message: string) {
    super(message);
    this.problem = { ...at, path: '', message };
  }
}

class Builder {
  readonly #document: Document;
  readonly #placeOf: (offset: number) => Place;
  #nodes = 0;

  constructor(document: Document, placeOf: (offset: number) => Place) {
    this.#document = document;
    this.#placeOf = placeOf;
  }

  build(): Tree {
    return this.#tree(this.#document.contents, 0, { line: 1, column: 1 });
  }

  #tree(node: unknown, depth: number, above: Place): Tree {
    const offset = (node as { range?: readonly number[] | null } | null)?.range?.[0];
    const at = offset === undefined ? above : this.#placeOf(offset);
    if (depth > MAX_DEPTH) throw new TreeError(at, `nested too deeply: at most ${MAX_DEPTH} levels`);
    if (++this.#nodes > MAX_NODES)
      throw new TreeError(at, `the file unfolds to more than ${MAX_NODES} values`);
    if (isAlias(node)) {
      const target = node.resolve(this.#document);
      if (!target) throw new TreeError(at, `there is no anchor '${short(node.source)}'`);
      return this.#tree(target, depth + 1, at);
    }
    if (isScalar(node)) {
      const { value } = node;
      if (value === null || ['string', 'number', 'boolean'].includes(typeof value))
        return { kind: 'scalar', at, value: value as string | number | boolean | null };
      throw new TreeError(at, 'a text, a number, true or false is due');
    }
    if (isSeq(node))
      return { kind: 'list', at, items: node.items.map((item) => this.#tree(item, depth + 1, at)) };
    if (isMap(node)) {
      const entries = new Map<string, Entry>();
      for (const { key, value } of node.items) {
        const name = this.#tree(key, depth + 1, at);
        if (name.kind !== 'scalar' || typeof name.value !== 'string')
          throw new TreeError(name.at, 'a key is a text');
        if (entries.has(name.value)) throw new TreeError(name.at, `'${short(name.value)}' is here twice`);
        entries.set(name.value, { at: name.at, value: this.#tree(value, depth + 1, name.at) });
      }
      return { kind: 'map', at, entries };
    }
    return { kind: 'scalar', at, value: null };
  }
}

/** For messages: whatever a file says, a line stays a line. */
export function short(text: string): string {
  const line = lineOf(text);
  return line.length <= 60 ? line : `${line.slice(0, 57)}…`;
}

function lineOf(text: string): string {
  return text.replaceAll(/[\u0000-\u001f\u007f]+/g, ' ').trim();
}
