/**
 * Remembers how an option was spelt, so that what goes wrong with it later (a port in use, an image that is missing)
 * can be told as QEMU does: the option as typed, then the reason. Kept beside the parsed options rather than in them,
 * because their keys are the option's own.
 */
const ORIGINS = new WeakMap<object, string>();

/** `spelt`: the option and its value as typed. */
export function noteOrigin(options: object, spelt: string): void {
  ORIGINS.set(options, spelt);
}

/** How `options` was spelt; `fallback` for options that no command line gave. */
export function originOf(options: object, fallback: string): string {
  return ORIGINS.get(options) ?? fallback;
}
