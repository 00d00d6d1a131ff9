/**
 * Reads an object's properties with QEMU's error texts (docs/qemu-behaviour.md 2.3-2.5, 3.1). Unknown ones are refused.
 */
import { ParameterError } from '../base/errors.ts';

export type Properties = Readonly<Record<string, unknown>>;

/** A command line has strings for everything; a monitor has JSON's types, and a string is no number there. */
export type PropertySource = 'command line' | 'monitor';

const U32_MAX = 0xffff_ffff;

export class PropertyReader {
  readonly #properties: Properties;
  readonly #source: PropertySource;

  /** Throws ParameterError when there is a property that is not in `known`. */
  constructor(properties: Properties, known: readonly string[], source: PropertySource = 'command line') {
    this.#properties = properties;
    this.#source = source;
    for (const name of Object.keys(properties)) {
      if (known.includes(name)) continue;
      throw new ParameterError(
        source === 'monitor' ? `Parameter '${name}' is unexpected` : `Invalid parameter '${name}'`,
      );
    }
  }

  optionalText(name: string): string | undefined {
    const value = this.#properties[name];
    if (value === undefined || value === null) return undefined;
    if (typeof value === 'string') return value;
    if (typeof value === 'number' && this.#source === 'command line') return String(value);
    throw new ParameterError(`Invalid parameter type for '${name}', expected: string`);
  }

  text(name: string): string {
    this.require(name);
    return this.optionalText(name) ?? '';
  }

  /** Throws when it is not given. */
  require(name: string): void {
    const value = this.#properties[name];
    if (value === undefined || value === null) throw new ParameterError(`Parameter '${name}' is missing`);
  }

  bool(name: string, fallback: boolean): boolean {
    const value = this.#properties[name];
    if (value === undefined) return fallback;
    if (typeof value === 'boolean') return value;
    if (typeof value !== 'string' || this.#source === 'monitor') {
      throw new ParameterError(`Invalid parameter type for '${name}', expected: boolean`);
    }
    if (['on', 'yes', 'true', 'y'].includes(value)) return true;
    if (['off', 'no', 'false', 'n'].includes(value)) return false;
    throw new ParameterError(`Parameter '${name}' expects 'on' or 'off'`);
  }

  oneOf<T extends string>(name: string, values: readonly T[], fallback: T): T {
    const value = this.optionalText(name) ?? fallback;
    const found = values.find((candidate) => candidate === value);
    if (found === undefined) throw new ParameterError(`Parameter '${name}' does not accept value '${value}'`);
    return found;
  }

  /** A u32 that is not 0; `owner` is the type name that QEMU puts in front, `refusal` what it says of 0. */
  positive(name: string, fallback: number, owner: string, refusal = 'requires a positive value'): number {
    const value = this.#properties[name];
    if (value === undefined) return fallback;
    const number = this.#number(name, value);
    if (number < 0 || number > U32_MAX) throw new ParameterError(`Parameter '${name}' expects uint32_t`);
    if (number === 0) throw new ParameterError(`Property '${owner}.${name}' ${refusal}`);
    return number;
  }

  #number(name: string, value: unknown): number {
    const isText = typeof value === 'string' && this.#source === 'command line';
    const number = isText && /^(0x[0-9a-f]+|-?\d+)$/i.test(value) ? Number(value) : value;
    if (typeof number === 'number' && Number.isInteger(number)) return number;
    const type = this.#source === 'monitor' ? 'uint64' : 'a uint64 value';
    throw new ParameterError(`Parameter '${name}' expects ${type}`);
  }
}
