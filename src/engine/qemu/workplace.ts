/**
 * A private folder for the sockets between an engine and its QEMU processes: nothing in it is data, guest RAM has no
 * name at all. A folder whose owner was killed is swept by the next one that is made.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

const PREFIX = 'colo-qemu-';

/** Unix socket paths hold 107 bytes, so the folder's name is short. */
export class Workplace {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async create(): Promise<Workplace> {
    sweep();
    return new Workplace(await mkdtemp(path.join(os.tmpdir(), `${PREFIX}${process.pid}-`)));
  }

  path(name: string): string {
    return path.join(this.folder, name);
  }

  /** A folder of its own for one child. */
  part(name: string): string {
    const folder = this.path(name);
    mkdirSync(folder, { mode: 0o700 });
    return folder;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function sweep(): void {
  for (const name of readdirSync(os.tmpdir())) {
    const owner = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (owner === undefined || isAlive(Number(owner))) continue;
    try {
      rmSync(path.join(os.tmpdir(), name), { recursive: true, force: true });
    } catch {
      // Somebody else's: theirs to sweep.
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
