/**
 * QMP commands as a table: a name, a schema of its arguments, what it does. Arguments are checked here, once, with
 * QEMU's texts; a command sees only what its schema describes.
 */
import { z } from 'zod';
import { CommandNotFoundError, ParameterError } from '../base/errors.ts';
import type { VirtualMachine } from '../vm/machine.ts';

export interface QmpCommand<T> {
  readonly name: string;
  readonly args: z.ZodType<T>;
  run(vm: VirtualMachine, args: T): unknown;
}

// The table holds commands of many argument types; each is only ever called with what its own schema returned.
type AnyCommand = QmpCommand<never>;

/** No arguments at all. */
export const noArguments = z.strictObject({});

/** Declares a command; the schema's type becomes the type of `args`. */
export function command<T>(
  name: string,
  args: z.ZodType<T>,
  run: (vm: VirtualMachine, args: T) => unknown,
): AnyCommand {
  return { name, args, run } as QmpCommand<T> as unknown as AnyCommand;
}

type Otherwise = (
  vm: VirtualMachine,
  name: string,
  args: Readonly<Record<string, unknown>>,
) => Promise<unknown>;

function notFound(_vm: VirtualMachine, name: string): Promise<never> {
  return Promise.reject(new CommandNotFoundError(`The command ${name} has not been found`));
}

export class CommandRegistry {
  readonly #commands = new Map<string, AnyCommand>();

  readonly #otherwise: Otherwise;

  /** `otherwise`: what a command does that is not in the table. */
  constructor(groups: readonly (readonly AnyCommand[])[], otherwise: Otherwise = notFound) {
    this.#otherwise = otherwise;
    for (const group of groups) for (const entry of group) this.#commands.set(entry.name, entry);
  }

  has(name: string): boolean {
    return this.#commands.has(name);
  }

  /** A command's schema. */
  argumentsOf(name: string): z.ZodType | null {
    return this.#commands.get(name)?.args ?? null;
  }

  names(): string[] {
    return [...this.#commands.keys()].sort();
  }

  async execute(vm: VirtualMachine, name: string, args: unknown): Promise<unknown> {
    const found = this.#commands.get(name);
    if (!found) return this.#otherwise(vm, name, (args ?? {}) as Record<string, unknown>);
    const parsed = parseArguments(found.args, args ?? {});
    return (await found.run(vm, parsed)) ?? {};
  }
}

/** Throws ParameterError with QEMU's text for the first thing that is wrong. */
export function parseArguments<T>(schema: z.ZodType<T>, args: unknown): T {
  const result = schema.safeParse(args, { reportInput: true });
  if (result.success) return result.data;
  throw new ParameterError(describeIssue(result.error.issues[0]!), { cause: result.error });
}

const INT64_MAX = 2 ** 63;
const UINT32_MAX = 0xffff_ffff;

/** A whole number of 64 bits with a sign; above 2^53 it has lost its last digits on the way here. */
export const int64 = z.custom<number>().superRefine((value, context) => {
  if (typeof value === 'number' && Number.isInteger(value) && Math.abs(value) < INT64_MAX) return;
  context.addIssue({
    code: 'custom',
    input: value,
    params: { wrong: (name: string) => wrongType(name, 'integer') },
  });
});

/** A whole number from 0 to 2^32 - 1. */
export const uint32 = z.custom<number>().superRefine((value, context) => {
  const isWhole = typeof value === 'number' && Number.isInteger(value);
  if (isWhole && value >= 0 && value <= UINT32_MAX) return;
  const expected = isWhole ? 'uint32_t' : 'uint64';
  context.addIssue({
    code: 'custom',
    input: value,
    params: { wrong: (name: string) => `Parameter '${name}' expects ${expected}` },
  });
});

/** A whole number whose bounds the command looks after. */
export const uint64 = z.custom<number>().superRefine((value, context) => {
  if (typeof value === 'number' && Number.isInteger(value)) return;
  context.addIssue({
    code: 'custom',
    input: value,
    params: { wrong: (name: string) => `Parameter '${name}' expects uint64` },
  });
});

/** zod's names of types → QEMU's. */
const TYPE_NAMES: Readonly<Record<string, string>> = { int: 'integer', record: 'object' };

function wrongType(name: string, expected: string): string {
  return `Invalid parameter type for '${name}', expected: ${TYPE_NAMES[expected] ?? expected}`;
}

/** QEMU's text for what is wrong (qapi/qobject-input-visitor.c, qapi/qapi-visit-core.c). */
function describeIssue(issue: z.core.$ZodIssue): string {
  const name = pathText(issue.path);
  if (issue.code === 'unrecognized_keys') {
    return `Parameter '${pathText([...issue.path, issue.keys[0] ?? ''])}' is unexpected`;
  }
  if (issue.code === 'invalid_union') {
    // The path ends with the member that tells the branches apart; the input is the whole object.
    const value = memberOf(issue.input, issue.path.at(-1));
    if (value === undefined) return `Parameter '${name}' is missing`;
    return `Parameter '${leafOf(issue.path)}' does not accept value '${textOf(value)}'`;
  }
  if (issue.input === undefined) return `Parameter '${name}' is missing`;
  switch (issue.code) {
    case 'invalid_type':
      return wrongType(name, issue.expected);
    case 'invalid_value':
      if (typeof issue.input !== typeof issue.values[0]) return wrongType(name, typeof issue.values[0]);
      // As in QEMU an enumeration is named by its last part.
      return `Parameter '${leafOf(issue.path)}' does not accept value '${textOf(issue.input)}'`;
    case 'too_small':
      return `Parameter '${name}' expects a value >= ${issue.minimum}`;
    case 'too_big':
      return `Parameter '${name}' expects a value <= ${issue.maximum}`;
    case 'custom': {
      const wrong: unknown = issue.params?.['wrong'];
      if (typeof wrong === 'function') return (wrong as (name: string) => string)(name);
      return `Parameter '${name}': ${issue.message}`;
    }
    default:
      return `Parameter '${name}': ${issue.message}`;
  }
}

/** `capabilities[0].state` */
function pathText(path: readonly PropertyKey[]): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += text === '' ? String(part) : `.${String(part)}`;
  }
  return text;
}

function leafOf(path: readonly PropertyKey[]): string {
  return String(path.at(-1) ?? '');
}

function memberOf(value: unknown, key: PropertyKey | undefined): unknown {
  if (typeof value !== 'object' || value === null || key === undefined) return undefined;
  return (value as Record<PropertyKey, unknown>)[key];
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
