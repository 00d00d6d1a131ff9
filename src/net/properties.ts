/**
 * Reads an object's properties, given as strings (command line) or as JSON values (QMP object-add), with QEMU's error
 * texts (docs/qemu-behaviour.md 2.3-2.5, 3.1). Unknown properties are refused.
 */
import { ParameterError } from '../base/errors.ts';

export type Properties = Readonly<Record<string, unknown>>;

const U32_MAX = 0xffff_ffff;

export class PropertyReader {
  readonly #properties: Properties;

  /** Throws ParameterError when there is a property that is not in `known`. */
  constructor(properties: Properties, known: readonly string[]) {
    this.#properties = properties;
    for (const name of Object.keys(properties)) {
      if (!known.includes(name)) throw new ParameterError(`Parameter '${name}' is unexpected`);
    }
  }

  optionalText(name: string): string | undefined {
    const value = this.#properties[name];
    if (value === undefined || value === null) return undefined;
    if (typeof value === 'string') return value;
    if (typeof value === 'number') return String(value);
    throw new ParameterError(`Invalid parameter type for '${name}', expected: string`);
  }

  text(name: string): string {
    const value = this.optionalText(name);
    if (value === undefined || value === '') throw new ParameterError(`Parameter '${name}' is missing`);
    return value;
  }

  bool(name: string, fallback: boolean): boolean {
    const value = this.#properties[name];
    if (value === undefined) return fallback;
    if (typeof value === 'boolean') return value;
    if (typeof value !== 'string') {
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

  /** A positive u32; `owner` is the type name that QEMU puts in front. */
  positive(name: string, fallback: number, owner: string): number {
    const value = this.#properties[name];
    if (value === undefined) return fallback;
    const number = typeof value === 'string' && /^(0x[0-9a-f]+|\d+)$/i.test(value) ? Number(value) : value;
    if (typeof number !== 'number' || !Number.isInteger(number) || number < 0 || number > U32_MAX) {
      throw new ParameterError(`Parameter '${name}' expects uint32_t`);
    }
    if (number === 0) throw new ParameterError(`Property '${owner}.${name}' requires a positive value`);
    return number;
  }
}
