/**
 * A program without a guest (`-machine none`): the built colo or QEMU, in a folder of its own with a few images, and its
 * monitor as a person at a keyboard sees it. What the same monitor lines are answered by both is in same-script.ts.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { COLO, until } from './colo.ts';
import { QmpTypist } from './qmp-typist.ts';

export const STEP_MS = 60_000;
export const BARE = '-machine none -nodefaults -nographic -display none -monitor none -serial none'.split(
  ' ',
);
export const CAPABILITIES = "{'execute':'qmp_capabilities'}";

/** The version of the QEMU that is installed, or null. */
export const qemuVersion = ((): string | null => {
  try {
    const text = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' });
    return /version (\S+)/.exec(text)?.[1] ?? null;
  } catch {
    return null;
  }
})();

export interface BareProcess {
  readonly child: ChildProcess;
  readonly qmp: QmpTypist;
  /** Where it runs and has its images; `DIR` stands for it in lines and in words of the command line. */
  readonly home: string;
  readonly stderr: () => string;
  /** Types a line; resolves with what `return` held. Rejects with QEMU's class and text on an error. */
  readonly type: (line: string) => Promise<unknown>;
}

/** A folder that goes when the test ends. */
export async function testFolder(t: Pick<TestContext, 'after'>): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-bare-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Empty images of 1 MiB, `big.raw` of 2. */
export async function emptyImages(home: string): Promise<void> {
  for (const image of ['a.raw', 'b.raw', 'c.raw', 'big.raw']) {
    await writeFile(path.join(home, image), '');
    await truncate(path.join(home, image), image === 'big.raw' ? 2 << 20 : 1 << 20);
  }
}

/**
 * Starts `program` in `folder`/`name` (made here), where `prepare` makes its images, and connects to its monitor. Words
 * of the command line are separated by blanks. It is killed when the test ends.
 */
export async function startBare(
  t: Pick<TestContext, 'after'>,
  program: 'colo' | 'qemu',
  home: string,
  line = '',
  prepare: (home: string) => Promise<void> = emptyImages,
): Promise<BareProcess> {
  await mkdir(home);
  await prepare(home);
  const socket = path.join(home, 'qmp');
  const [command, first] = program === 'colo' ? [process.execPath, [COLO, 'vm']] : ['qemu-system-x86_64', []];
  const given = line.split(' ').filter((word) => word !== '');
  const words = [...BARE, ...given, '-qmp', `unix:${socket},server=on,wait=off`];
  const child = spawn(command, [...first, ...words.map((word) => word.replaceAll('DIR', home))], {
    cwd: home,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  let connection: net.Socket | null = null;
  await until(`${program} listens`, STEP_MS, async () => {
    assert.equal(child.exitCode, null, text);
    const attempt = net.connect(socket);
    const isOpen = await new Promise<boolean>((resolve) => {
      attempt.once('connect', () => resolve(true)).once('error', () => resolve(false));
    });
    if (isOpen) connection = attempt;
    return isOpen;
  });
  const qmp = new QmpTypist(connection!, connection!);
  await qmp.greeted(STEP_MS);
  const type = (typed: string): Promise<unknown> => qmp.type(typed.replaceAll('DIR', home), STEP_MS);
  return { child, qmp, home, stderr: () => text, type };
}

/** A command as a line. */
export const execute = (command: string, args?: object): string =>
  JSON.stringify(args === undefined ? { execute: command } : { execute: command, arguments: args });
/** A line of the human monitor as a line. */
export const hmp = (line: string): string => execute('human-monitor-command', { 'command-line': line });

export const unixServer = (name: string): object => ({
  type: 'socket',
  data: { addr: { type: 'unix', data: { path: `DIR/${name}` } }, server: true, wait: false },
});
export const rawNode = (node: string, file: string): object => ({
  driver: 'raw',
  'node-name': node,
  file: { driver: 'file', filename: `DIR/${file}` },
});
