/**
 * A C library through koffi, loaded when it is first needed: most programs of this package need none, and where koffi has
 * no build for the platform only what needs it fails.
 */
import { createRequire } from 'node:module';
import type * as Koffi from 'koffi';

export interface CLibrary {
  readonly koffi: typeof Koffi;
  readonly library: ReturnType<typeof Koffi.load>;
}

/** `name` as the dynamic linker knows it. Throws what koffi throws: no build of it, or no such library. */
export function loadLibrary(name: string): CLibrary {
  const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  return { koffi, library: koffi.load(name) };
}
