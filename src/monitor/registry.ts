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

export class CommandRegistry {
  readonly #commands = new Map<string, AnyCommand>();

  constructor(groups: readonly (readonly AnyCommand[])[]) {
    for (const group of groups) for (const entry of group) this.#commands.set(entry.name, entry);
  }

  names(): string[] {
    return [...this.#commands.keys()].sort();
  }

  async execute(vm: VirtualMachine, name: string, args: unknown): Promise<unknown> {
    const found = this.#commands.get(name);
    if (!found) throw new CommandNotFoundError(`The command ${name} has not been found`);
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

function describeIssue(issue: z.core.$ZodIssue): string {
  const name = issue.path.map(String).join('.');
  switch (issue.code) {
    case 'unrecognized_keys':
      return `Parameter '${[name, issue.keys[0]].filter(Boolean).join('.')}' is unexpected`;
    case 'invalid_type':
      if (issue.input === undefined) return `Parameter '${name}' is missing`;
      return `Invalid parameter type for '${name || 'arguments'}', expected: ${issue.expected}`;
    case 'invalid_value':
      if (issue.input === undefined) return `Parameter '${name}' is missing`;
      return `Parameter '${name}' does not accept value '${typeof issue.input === 'string' ? issue.input : JSON.stringify(issue.input)}'`;
    case 'too_small':
    case 'too_big':
      return `Parameter '${name}' expects a value ${issue.code === 'too_small' ? `>= ${issue.minimum}` : `<= ${issue.maximum}`}`;
    default:
      return `Parameter '${name}': ${issue.message}`;
  }
}
