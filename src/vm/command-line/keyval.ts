/**
 * QEMU's option strings: `key=value,flag,noflag`, a comma in a value written twice, the first word of some options
 * standing for a known key (util/qemu-option.c, opts_do_parse). Pure.
 */
import { ParameterError } from '../../base/errors.ts';

/** Keys in order of appearance; a key given twice has its last value. Without a prototype: keys come from outside. */
export type Options = Record<string, string>;

/**
 * `impliedKey`: what a first word without `=` is the value of. A later bare word is a flag: `x` is `x=on`, `nox` is
 * `x=off`. Throws ParameterError for an empty key.
 */
export function parseOptions(text: string, impliedKey?: string): Options {
  const options = Object.create(null) as Options;
  for (const [at, part] of splitAtCommas(text).entries()) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    if (equals === 0) throw new ParameterError(`Invalid parameter '${part}'`);
    if (equals > 0) options[part.slice(0, equals)] = part.slice(equals + 1);
    else if (at === 0 && impliedKey !== undefined) options[impliedKey] = part;
    else if (part.startsWith('no') && part.length > 2) options[part.slice(2)] = 'off';
    else options[part] = 'on';
  }
  return options;
}

/** Throws ParameterError with QEMU's text for the first key that is not in `known`. */
export function refuseUnknown(options: Options, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) throw new ParameterError(`Invalid parameter '${key}'`);
  }
}

/** Splits at single commas; `,,` is a comma of the value. */
function splitAtCommas(text: string): string[] {
  const parts: string[] = [];
  let part = '';
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== ',') part += text.charAt(at);
    else if (text[at + 1] === ',') {
      part += ',';
      at++;
    } else {
      parts.push(part);
      part = '';
    }
  }
  parts.push(part);
  return parts;
}

/** The JSON form of an option (`-netdev '{…}'`), flattened to dotted keys. Throws ParameterError. */
export function parseJsonOptions(text: string): Options {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ParameterError(`Invalid JSON: ${text.slice(0, 60)}`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ParameterError('The JSON form of an option is an object');
  }
  const options = Object.create(null) as Options;
  flatten(value, '', options);
  return options;
}

/** Nested objects and arrays as QEMU's command line spells them: `a.b`, `list.0`. Booleans become on/off. */
export function flatten(value: object, prefix: string, into: Options): void {
  for (const [key, member] of Object.entries(value) as [string, unknown][]) {
    const name = prefix + key;
    if (typeof member === 'object' && member !== null) flatten(member, `${name}.`, into);
    // The one option that has a null: no backing file, whatever the image says.
    else if (member === null && key === 'backing') into[name] = '';
    else if (typeof member === 'boolean') into[name] = member ? 'on' : 'off';
    else if (typeof member === 'string' || typeof member === 'number') into[name] = String(member);
    else throw new ParameterError(`Parameter '${name}' expects a value`);
  }
}

/** Either form. */
export function parseEither(text: string, impliedKey?: string): Options {
  return text.startsWith('{') ? parseJsonOptions(text) : parseOptions(text, impliedKey);
}

/** `512` (mebibytes where QEMU means them), `512M`, `1G`, `0x200`. Null when it is not a size. */
export function parseSize(text: string, defaultUnit = 1): number | null {
  const match = /^(\d+(?:\.\d+)?|0x[0-9a-fA-F]+)([bBkKmMgGtT]?)$/.exec(text);
  if (!match) return null;
  const unit =
    match[2] === '' ? defaultUnit : 1024 ** ' kmgt'.indexOf(match[2]!.toLowerCase().replace('b', ' '));
  const bytes = Number(match[1]) * unit;
  return Number.isSafeInteger(bytes) ? bytes : null;
}
