/**
 * Replies and events for a terminal: JSON of two blanks a level, coloured when somebody looks. What a terminal would obey
 * is escaped. Whole numbers of 64 bits stay what they are.
 */
import { stringifyJson } from '../../qmp/json-stream.ts';
import { printable } from '../cluster/text.ts';
import { painted, wantsColours, type Style } from '../style.ts';

const STYLES = {
  key: 'cyan',
  string: 'green',
  number: 'yellow',
  word: 'magenta',
  event: 'bold',
  error: 'red',
} as const satisfies Readonly<Record<string, Style>>;
type Kind = keyof typeof STYLES;

export type Paint = (kind: Kind, text: string) => string;
export const plain: Paint = (_kind, text) => text;
export const coloured: Paint = (kind, text) => painted(STYLES[kind], text);

/** Where colours are wanted. */
export function paintFor(
  stream: { readonly isTTY?: boolean },
  env: Readonly<Record<string, string | undefined>> = process.env,
): Paint {
  return wantsColours(stream, env) ? coloured : plain;
}

export function prettyJson(value: unknown, paint: Paint, indent = ''): string {
  const below = `${indent}  `;
  if (Array.isArray(value)) {
    if (value.length === 0) return '[]';
    const members = value.map((member) => below + prettyJson(member, paint, below));
    return `[\n${members.join(',\n')}\n${indent}]`;
  }
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    if (members.length === 0) return '{}';
    const lines = members.map(
      ([key, member]) => `${below}${paint('key', quote(key))}: ${prettyJson(member, paint, below)}`,
    );
    return `{\n${lines.join(',\n')}\n${indent}}`;
  }
  if (typeof value === 'string') return paint('string', quote(value));
  return paint(
    typeof value === 'number' || typeof value === 'bigint' ? 'number' : 'word',
    stringifyJson(value),
  );
}

/** Readable beyond ASCII; control characters, and what turns the direction of writing, are escaped. */
function quote(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}

/** What a human monitor said, line by line. */
export function printableLines(text: string): string {
  return text
    .replace(/\r?\n$/, '')
    .split(/\r?\n/)
    .map(printable)
    .join('\n');
}
