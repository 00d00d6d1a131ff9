/**
 * What each VM is of which this host has a copy, beside its disks: a daemon that starts while the registry is out of reach
 * has to know. Written whole and renamed.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { loggerFor } from '../base/logger.ts';
import { parseVmSpec } from '../ha/spec/vm-json.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';

const FILE = 'spec.json';
const log = loggerFor('node');

export class SpecStore {
  readonly #folder: string;

  constructor(stateFolder: string) {
    this.#folder = path.join(stateFolder, 'vms');
  }

  /** Throws when it cannot be written. */
  store(spec: VmSpec): void {
    const folder = path.join(this.#folder, spec.name);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const file = path.join(folder, FILE);
    const text = JSON.stringify(spec);
    if (existsSync(file) && readFileSync(file, 'utf8') === text) return;
    writeFileSync(`${file}.new`, text, { mode: 0o600 });
    renameSync(`${file}.new`, file);
  }

  names(): string[] {
    return existsSync(this.#folder) ? readdirSync(this.#folder) : [];
  }

  /** Null: there is none, or none that can be read. */
  read(name: string): VmSpec | null {
    const file = path.join(this.#folder, name, FILE);
    try {
      return parseVmSpec(JSON.parse(readFileSync(file, 'utf8')));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        log.warn({ err: error, file }, 'a VM cannot be read');
      return null;
    }
  }
}
