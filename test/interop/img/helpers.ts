/** `colo img` in this process beside qemu-img as a program: the same arguments on two copies of the same files. */
import assert from 'node:assert/strict';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { ours } from '../../helpers/img.ts';
import { inFolder, runTool, tool } from '../qcow2/helpers.ts';
import type { ToolResult } from '../qcow2/helpers.ts';

export { ours } from '../../helpers/img.ts';
export { inFolder, missingTools, runTool, tool } from '../qcow2/helpers.ts';
export type { ToolResult } from '../qcow2/helpers.ts';

export const theirs = (...args: string[]): Promise<ToolResult> => runTool('qemu-img', ...args);

/** A command line as one text of words without spaces, or as a list. */
type Line = string | readonly string[];
const words = (line: Line): string[] => (typeof line === 'string' ? line.split(' ') : [...line]);

/** Two folders with the same files. Only one of these may be in use at a time: names are relative to a folder. */
export class Both {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async in<T>(side: 'ours' | 'theirs', act: () => Promise<T>): Promise<T> {
    const before = process.cwd();
    process.chdir(join(this.#folder, side));
    try {
      return await act();
    } finally {
      process.chdir(before);
    }
  }

  /** Both programs, each in its own folder. */
  async run(line: Line): Promise<[ToolResult, ToolResult]> {
    const a = await this.in('ours', () => ours(...words(line)));
    const b = await this.in('theirs', () => theirs(...words(line)));
    return [a, b];
  }

  /** The same standard output and exit code. */
  async alike(line: Line): Promise<string> {
    const [a, b] = await this.run(line);
    assert.equal(a.stdout, b.stdout, `${words(line).join(' ')}\n${a.stderr}`);
    assert.equal(a.code, b.code, `${words(line).join(' ')}\n${a.stderr}`);
    return a.stdout;
  }

  /** A failure: the same exit code, output, and text behind the program's name, with QEMU's hints on the one line. */
  async failsAlike(line: Line): Promise<void> {
    const [a, b] = await this.run(line);
    assert.notEqual(b.code, 0, words(line).join(' '));
    assert.equal(a.code, b.code, `${words(line).join(' ')}\n${a.stderr}`);
    assert.equal(a.stdout, b.stdout, words(line).join(' '));
    const lines = a.stderr.split('\n').filter((text) => text !== '');
    for (const text of lines) assert.match(text, /^colo img: /, words(line).join(' '));
    assert.equal(plain(a.stderr, 'colo img: '), plain(b.stderr, 'qemu-img: '), words(line).join(' '));
  }
}

/** `act` with what `setUp` makes in the folder where it is called, and a copy of it. */
export async function inBoth(setUp: () => Promise<void>, act: (both: Both) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    await mkdir(join(folder, 'ours'));
    const both = new Both(folder);
    await both.in('ours', setUp);
    await tool('cp', '-a', join(folder, 'ours'), join(folder, 'theirs'));
    await act(both);
  });
}

/** As inBoth with the very same files: for commands that only look. A copy may take another place on the disk. */
export async function inOne(setUp: () => Promise<void>, act: (both: Both) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    await mkdir(join(folder, 'ours'));
    await symlink('ours', join(folder, 'theirs'));
    const both = new Both(folder);
    await both.in('ours', setUp);
    await act(both);
  });
}

function plain(stderr: string, prefix: string): string {
  const text = stderr.replaceAll(prefix, ' ').replace(/Try 'qemu-img --help' for more information/, '');
  return text.replaceAll(/[\s.]+/g, ' ').trim();
}
