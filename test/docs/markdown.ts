/**
 * What a page of README.md or docs/ holds for whoever checks it: fences with what is to be done with each, code spans, and
 * what the page needs to be run (CONTRIBUTING.md, Documents). Of Markdown no more than these pages use: fences of three
 * backquotes or more, indented or not, and no code span over several lines.
 */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const TOP: string = fileURLToPath(new URL('../../', import.meta.url));

/** Typed in the page's session, by another test, or by nobody. */
export type Way =
  | { readonly kind: 'run' }
  | { readonly kind: 'run-by'; readonly file: string }
  | { readonly kind: 'not-run'; readonly reason: string };

export interface Fence {
  /** Of the line with the backquotes, from 1. */
  readonly line: number;
  /** Empty: none was given. */
  readonly language: string;
  /** What stands behind the language: the file that the fence is. */
  readonly file: string | null;
  /** Without its indentation; every line ends with a newline. */
  readonly text: string;
  readonly way: Way;
}

export interface Span {
  readonly line: number;
  readonly text: string;
}

export interface Page {
  readonly name: string;
  readonly worlds: readonly string[];
  readonly fences: readonly Fence[];
  readonly spans: readonly Span[];
}

/** The pages for users and contributors; the changelog speaks of the past. */
export function pageNames(): string[] {
  const docs = readdirSync(path.join(TOP, 'docs'), { recursive: true })
    .map((name) => path.join('docs', String(name)))
    .filter((name) => name.endsWith('.md'));
  return ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'src/README.md', ...docs.sort()];
}

export const readPage = (name: string): Page => parsePage(name, readFileSync(path.join(TOP, name), 'utf8'));

const COMMENT = /^ *<!-- *(run with|run by|not run): *(.*?) *-->$/;

/** Throws Error for a fence without an end, and for a comment of ours that stands before no fence. */
export function parsePage(name: string, text: string): Page {
  const fences: Fence[] = [];
  const spans: Span[] = [];
  let worlds: string[] = [];
  let pending: { readonly way: Way; readonly line: number } | null = null;
  const lines = text.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at]!;
    const place = `${name}:${at + 1}`;
    const [, kind, value = ''] = COMMENT.exec(line) ?? [];
    if (kind === 'run with') {
      if (fences.length > 0) throw new Error(`${place}: 'run with' belongs before the first fence`);
      worlds = value.split(/[ ,]+/);
    } else if (kind !== undefined) {
      if (value === '') throw new Error(`${place}: '${kind}:' and then why, or where`);
      const way: Way =
        kind === 'run by' ? { kind: 'run-by', file: value } : { kind: 'not-run', reason: value };
      pending = { way, line: at + 1 };
    } else if (/^ *`{3,}/.test(line)) {
      const fence = fenceAt(lines, at, place, pending?.way ?? { kind: 'run' });
      fences.push(fence.found);
      pending = null;
      at = fence.end;
    } else if (line.trim() !== '') {
      if (pending) throw new Error(`${name}:${pending.line}: no fence below this comment`);
      for (const [, code = ''] of line.matchAll(/(?<!`)`([^`]+)`(?!`)/g)) {
        // In a table's cell a bar has a backslash before it.
        spans.push({ line: at + 1, text: code.replaceAll('\\|', '|') });
      }
    }
  }
  if (pending) throw new Error(`${name}:${pending.line}: no fence below this comment`);
  return { name, worlds, fences, spans };
}

function fenceAt(
  lines: readonly string[],
  start: number,
  place: string,
  way: Way,
): { found: Fence; end: number } {
  const [, indent = '', ticks = '', info = ''] = /^( *)(`{3,}) *(.*?) *$/.exec(lines[start]!) ?? [];
  const end = lines.findIndex((line, at) => at > start && line.trim() === ticks);
  if (end === -1) throw new Error(`${place}: this fence has no end`);
  const [language = '', file = null, ...more] = info.split(/ +/);
  if (more.length > 0) throw new Error(`${place}: a language and a file's name may be here, not '${info}'`);
  const text = lines
    .slice(start + 1, end)
    .map((line) => `${line.startsWith(indent) ? line.slice(indent.length) : line.trimStart()}\n`)
    .join('');
  return { found: { line: start + 1, language, file, text, way }, end };
}

export interface Typed {
  /** In the page. */
  readonly line: number;
  readonly command: string;
  /** Lines for the program's standard input. */
  readonly input: string;
  /** Null: what comes out is not shown. */
  readonly output: string | null;
}

/** What is typed in a fence: the whole of an `sh`, each prompt of a `console`. */
export function typedIn({ language, text, line }: Fence): Typed[] {
  if (language === 'sh') return [{ line: line + 1, command: text, input: '', output: null }];
  const typed: { line: number; command: string; input: string; output: string | null }[] = [];
  let isContinued = false;
  for (const [at, row] of text.split('\n').slice(0, -1).entries()) {
    const last = typed.at(-1);
    if (isContinued && last) last.command += row + '\n';
    else if (row.startsWith('$ '))
      typed.push({ line: line + 1 + at, command: row.slice(2) + '\n', input: '', output: null });
    else if (!last) throw new Error(`line ${line + 1 + at}: a console begins with '$ '`);
    else if (/^\(QMP\) |^\{'execute'/.test(row)) last.input += `${row.replace(/^\(QMP\) /, '')}\n`;
    else last.output = `${last.output ?? ''}${row}\n`;
    isContinued = row.endsWith('\\') && (isContinued || row.startsWith('$ '));
  }
  return typed;
}

/** Whether output is as shown: `…` is any text, a line of only that any lines. Blanks at ends of lines do not count. */
export function isAsShown(shown: string, output: string): boolean {
  const neat = (text: string): string => text.replace(/[ \t\r]+$/gm, '').replace(/\n+$/, '');
  const pattern = neat(shown)
    .split('\n')
    .map((line) => {
      if (line === '…') return '(?:[^\\n]*(?:\\n|$))*?';
      return `${line.split('…').map(escape).join('[^\\n]*')}(?:\\n|$)`;
    })
    .join('');
  return new RegExp(`^${pattern}$`).test(neat(output));
}

const escape = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
