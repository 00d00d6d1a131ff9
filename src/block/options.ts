/**
 * Options of a block node, as trees of strings: `-drive a.b=c`, QMP's `blockdev-add` and JSON pseudo-protocol names
 * all become this. Drivers take what they know and the graph refuses what nobody took.
 */
import { ParameterError } from '../base/errors.ts';

export type OptionValue = string | OptionTree;
export interface OptionTree {
  [key: string]: OptionValue;
}

/** `{ 'a.b': '1', 'a.c': '2' }` → `{ a: { b: '1', c: '2' } }`. Throws ParameterError when a key is both leaf and tree. */
export function nestOptions(flat: Readonly<Record<string, string>>): OptionTree {
  const root: OptionTree = Object.create(null) as OptionTree;
  for (const [key, value] of Object.entries(flat)) {
    const path = key.split('.');
    let at = root;
    for (const [depth, name] of path.entries()) {
      if (depth === path.length - 1) {
        if (typeof at[name] === 'object') throw new ParameterError(`Parameter '${key}' is given twice`);
        at[name] = value;
      } else {
        const below = (at[name] ??= Object.create(null) as OptionTree);
        if (typeof below === 'string') throw new ParameterError(`Parameter '${key}' is given twice`);
        at = below;
      }
    }
  }
  return root;
}

/** Takes options one by one and refuses what is left over, with QEMU's texts. */
export class OptionReader {
  readonly #options: OptionTree;

  constructor(options: OptionTree) {
    this.#options = { ...options };
  }

  /** The value of `key`, removed from what is left; undefined when absent. Throws ParameterError when it is a tree. */
  string(key: string): string | undefined {
    const value = this.#take(key);
    if (typeof value === 'object') throw new ParameterError(`Parameter '${key}' expects a string`);
    return value;
  }

  required(key: string): string {
    const value = this.string(key);
    if (value === undefined) throw new ParameterError(`Parameter '${key}' is missing`);
    return value;
  }

  boolean(key: string): boolean | undefined {
    const value = this.string(key);
    if (value === undefined) return undefined;
    if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') return true;
    if (value === 'off' || value === 'no' || value === 'false' || value === 'n') return false;
    throw new ParameterError(`Parameter '${key}' expects 'on' or 'off'`);
  }

  /** One of `allowed`. Throws ParameterError with QEMU's text. */
  choice<T extends string>(key: string, allowed: readonly T[]): T | undefined {
    const value = this.string(key);
    const known = allowed.find((one) => one === value);
    if (value !== undefined && known === undefined) {
      throw new ParameterError(`Parameter '${key}' does not accept value '${value}'`);
    }
    return known;
  }

  integer(key: string, min = 0, max = Number.MAX_SAFE_INTEGER): number | undefined {
    const value = this.string(key);
    if (value === undefined) return undefined;
    const number = /^(0x[0-9a-fA-F]+|[0-9]+)$/.test(value) ? Number(value) : NaN;
    if (!(number >= min && number <= max)) {
      throw new ParameterError(`Parameter '${key}' expects a number from ${min} to ${max}`);
    }
    return number;
  }

  /** A subtree or a string (a reference to a node), removed from what is left. */
  node(key: string): OptionValue | undefined {
    return this.#take(key);
  }

  /** The keys not taken so far. */
  remaining(): string[] {
    return Object.keys(this.#options);
  }

  /** Throws ParameterError when something was not taken. `where` names the driver. */
  finish(where: string): void {
    const [key] = this.remaining();
    if (key !== undefined)
      throw new ParameterError(`Block driver '${where}' does not support the option '${key}'`);
  }

  #take(key: string): OptionValue | undefined {
    const value = this.#options[key];
    // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- a private copy with no prototype in use
    delete this.#options[key];
    return value;
  }
}
