/**
 * v86's own files: where npm put them, and their hashes. Runs in the worker.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

export interface V86Files {
  readonly wasm: Uint8Array<ArrayBuffer>;
  readonly wasmSha256: string;
  readonly scriptSha256: string;
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export function readV86Files(): V86Files {
  const script = createRequire(import.meta.url).resolve('v86');
  const wasm = new Uint8Array(readFileSync(join(dirname(script), 'v86.wasm')));
  return { wasm, wasmSha256: sha256(wasm), scriptSha256: sha256(readFileSync(script)) };
}
