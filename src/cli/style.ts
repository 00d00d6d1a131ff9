/**
 * Colours, where somebody looks who wants them: a terminal, unless --no-color, NO_COLOR (https://no-color.org) or TERM=dumb
 * say no; FORCE_COLOR asks for them without a terminal. Colour never says what the text does not say.
 */
import { styleText } from 'node:util';
import { presentation } from './presentation.ts';

export type Style = Parameters<typeof styleText>[0];
/** The text as it is to be shown. Its visible length stays. */
export type Painter = (style: Style, text: string) => string;

export const unpainted: Painter = (_style, text) => text;
/** Whether to paint has been decided; newer Node would decide again. */
export const painted: Painter = (style, text) =>
  text === '' ? '' : styleText(style, text, { validateStream: false });

type Env = Readonly<Record<string, string | undefined>>;

export function wantsColours(
  stream: { readonly isTTY?: boolean },
  env: Env = process.env,
  mayColour = presentation().mayColour,
): boolean {
  if (!mayColour) return false;
  const force = env['FORCE_COLOR'];
  if (env['NO_COLOR']) return false;
  if (force !== undefined && force !== '') return force !== '0' && force !== 'false';
  return stream.isTTY === true && env['TERM'] !== 'dumb';
}

export function painterFor(stream: { readonly isTTY?: boolean }, env: Env = process.env): Painter {
  return wantsColours(stream, env) ? painted : unpainted;
}

/** Of a VM's or a host's state: green is well, yellow is under way, red wants somebody to look. */
export function styleOfState(state: string): Style {
  const word = /^\S+/.exec(state)?.[0] ?? '';
  if (WELL.has(word)) return 'green';
  if (BAD.has(word)) return 'red';
  return word === 'down' || word === '-' ? 'dim' : 'yellow';
}

const WELL: ReadonlySet<string> = new Set(['protected', 'running', 'alive']);
const BAD: ReadonlySet<string> = new Set(['unprotected', 'blocked', 'dissolving', 'gone', 'stopped']);

/** Of what `painted` adds. */
export const SGR = /\x1b\[[\d;]*m/g;

/** At most `width` characters that are seen; what was painted ends. */
export function cutPainted(line: string, width: number): string {
  const visible = line.replace(SGR, '');
  if (Array.from(visible).length <= width) return line;
  let left = width;
  let text = '';
  let isPainted = false;
  for (const [part] of line.matchAll(/\x1b\[[\d;]*m|[^]/gu)) {
    if (part.length > 1 && part.startsWith('\x1b')) {
      text += part;
      isPainted = true;
    } else if (left > 0) {
      text += part;
      left--;
    } else break;
  }
  return isPainted ? `${text}\x1b[0m` : text;
}
