/** A small tmpfs for tests of full and read-only file systems. Needs root. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface SmallMount {
  readonly dir: string;
  remount(options: string): void;
  unmount(): void;
  remove(): void;
}

/** Null where this user may not mount. */
export function smallMount(options: string): SmallMount | null {
  const dir = mkdtempSync(path.join(tmpdir(), 'mount-'));
  const run = (...args: string[]): number | null => spawnSync(args[0]!, args.slice(1)).status;
  if (run('mount', '-t', 'tmpfs', '-o', options, 'test', dir) !== 0) {
    rmdirSync(dir);
    return null;
  }
  return {
    dir,
    remount: (how) => {
      if (run('mount', '-o', `remount,${how}`, dir) !== 0) throw new Error(`cannot remount ${dir} ${how}`);
    },
    unmount: () => {
      if (run('umount', dir) !== 0) throw new Error(`cannot unmount ${dir}`);
    },
    remove: () => {
      run('umount', dir);
      rmdirSync(dir);
    },
  };
}
