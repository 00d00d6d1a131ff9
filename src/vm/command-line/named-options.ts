/**
 * Options that name something: -chardev, -netdev, -object, -drive, -device. Each kind has its own name space, checked
 * as soon as the option is read, with QEMU's texts (util/qemu-option.c, util/id.c). What the names mean is not known here.
 */
import { ParameterError } from '../../base/errors.ts';
import { checkIdentifier } from '../../chardev/options.ts';
import type { Options } from './keyval.ts';

/**
 * Appends `options` to `list`. `required`: keys that must be there.
 * Throws ParameterError: a key is missing, the id is no identifier, or another option of the kind has it.
 */
export function addNamed(
  kind: string,
  list: Options[],
  options: Options,
  required: readonly string[] = [],
): void {
  for (const key of required) {
    if (options[key] === undefined) throw new ParameterError(`Parameter '${key}' is missing`);
  }
  checkId(
    kind,
    options['id'],
    list.map((other) => other['id']),
  );
  list.push(options);
}

/** `id` may be missing. */
export function checkId(kind: string, id: string | undefined, taken: readonly (string | undefined)[]): void {
  if (id === undefined) return;
  checkIdentifier(id);
  if (taken.includes(id)) throw new ParameterError(`Duplicate ID '${id}' for ${kind}`);
}
