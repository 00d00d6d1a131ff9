/**
 * Reads one object of a QMP request member by member and refuses what is left over, with the texts of QEMU's input
 * visitor: `Parameter 'backend.data.addr' is missing`, `Invalid parameter type for '…', expected: string`,
 * `Parameter '…' is unexpected`.
 */
import { ParameterError } from '../base/errors.ts';

export class BackendReader {
  readonly #path: string;
  readonly #members: Map<string, unknown>;

  /** Throws ParameterError when `value` is not an object. */
  constructor(value: unknown, path: string) {
    if (value === undefined) throw new ParameterError(`Parameter '${path}' is missing`);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new ParameterError(`Invalid parameter type for '${path}', expected: object`);
    }
    this.#path = path;
    this.#members = new Map(Object.entries(value));
  }

  has(key: string): boolean {
    return this.#members.has(key);
  }

  string(key: string): string {
    const value = this.optionalString(key);
    if (value === undefined) throw new ParameterError(`Parameter '${this.#path}.${key}' is missing`);
    return value;
  }

  optionalString(key: string): string | undefined {
    const value = this.#take(key);
    if (value === undefined || typeof value === 'string') return value;
    throw this.#wrongType(key, 'string');
  }

  optionalBoolean(key: string): boolean | undefined {
    const value = this.#take(key);
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.#wrongType(key, 'boolean');
  }

  /** From 0 to `max`. */
  optionalInteger(key: string, max: number): number | undefined {
    const value = this.#take(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isInteger(value)) throw this.#wrongType(key, 'integer');
    if (value >= 0 && value <= max) return value;
    throw new ParameterError(`Parameter '${this.#path}.${key}' expects a number from 0 to ${max}`);
  }

  object(key: string): BackendReader {
    return new BackendReader(this.#take(key), `${this.#path}.${key}`);
  }

  /** Throws ParameterError when a member was not asked for. */
  end(): void {
    for (const key of this.#members.keys())
      throw new ParameterError(`Parameter '${this.#path}.${key}' is unexpected`);
  }

  #take(key: string): unknown {
    const value = this.#members.get(key);
    this.#members.delete(key);
    return value;
  }

  #wrongType(key: string, expected: string): ParameterError {
    return new ParameterError(`Invalid parameter type for '${this.#path}.${key}', expected: ${expected}`);
  }
}
