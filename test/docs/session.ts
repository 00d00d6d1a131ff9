/**
 * Types a page at one bash, as root of a machine of its own: namespaces for mounts, network and processes, with private
 * copies of the folders that a page writes to. Everything that a page starts ends with it, and its ports and files are
 * nobody else's. What the page is about (hosts, certificates) is made by a world's text before (worlds.ts).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { notOnThisMachine } from '../helpers/not-here.ts';
import { TOP, isAsShown, typedIn, type Page, type Typed } from './markdown.ts';
import { ENTER, WORLDS } from './worlds.ts';

/** A page is told with the line at which it stood still; the longest takes a minute on a quiet machine. */
const PAGE_DEADLINE_MS = 400_000;

/** For a test's `skip`. */
export function whyNoSessions(): string | false {
  if (process.getuid?.() !== 0) return notOnThisMachine('namespaces need root');
  for (const program of ['setpriv', 'unshare', 'ip', 'socat', 'curl', 'qemu-img', 'openssl']) {
    const isThere = (process.env['PATH'] ?? '')
      .split(':')
      .some((folder) => existsSync(path.join(folder, program)));
    if (!isThere) return `no ${program}`;
  }
  if (process.env['COLO_GUEST_IMAGE'] === undefined)
    return 'set COLO_GUEST_IMAGE to a guest made by colo guest';
  return false;
}

interface Step {
  readonly line: number;
  /** What the page's bash reads. */
  readonly shell: string;
  readonly typed: Typed | null;
}

function stepsOf({ worlds, fences }: Page): Step[] {
  const steps: Step[] = worlds.map((world) => ({
    line: 1,
    shell: `set -e\n${WORLDS[world]!}set +e\n`,
    typed: null,
  }));
  for (const fence of fences) {
    if (fence.file !== null) {
      const file = fence.file.replace(/'/g, '');
      const shell = `mkdir -p "$(dirname '${file}')" && cat >'${file}' <<'COLO_FENCE'\n${fence.text}COLO_FENCE\n`;
      steps.push({ line: fence.line, shell, typed: null });
    } else if (fence.way.kind === 'run' && (fence.language === 'sh' || fence.language === 'console')) {
      for (const typed of typedIn(fence)) steps.push({ line: typed.line, shell: shellOf(typed), typed });
    }
  }
  return steps;
}

function shellOf({ command, input }: Typed): string {
  if (input === '') return command;
  return `${command.trimEnd()} <<'COLO_INPUT'\n${input}COLO_INPUT\n`;
}

/**
 * What holds as soon as a program that is left to run can be used, as a reader would see it; null: nobody would wait.
 * Of `colo vm` that its monitor is there, of the others that they say something.
 */
function whenReady(command: string, at: number): string | null {
  if (!/&\s*$/.test(command)) return null;
  const [last = ''] = command.replace(/\\\n/g, ' ').trimEnd().split('\n').slice(-1);
  const monitor = /\bcolo vm\b.* -qmp unix:([^, ]+)/.exec(last)?.[1];
  if (monitor !== undefined) return `[ -S "${monitor}" ]`;
  if (!/\bcolo (?:nbd serve|switch|node|demo)\b/.test(last) || / >/.test(last)) return null;
  return `grep -qE 'ready|http://' /session/steps/out-${at}`;
}

/** How many commands were typed. Throws Error with the page's line and what came out for the first that does not do as it should. */
export async function runPage(page: Page): Promise<number> {
  const steps = stepsOf(page);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-page-'));
  try {
    await mkdir(path.join(folder, 'root'));
    await writeFile(path.join(folder, 'enter'), ENTER);
    for (const [at, { shell, typed }] of steps.entries()) {
      await writeFile(path.join(folder, `step-${at}`), shell);
      const ready = typed === null ? null : whenReady(typed.command, at);
      if (ready !== null) await writeFile(path.join(folder, `ready-${at}`), ready);
      if (typed?.output != null) await writeFile(path.join(folder, `shown-${at}`), typed.output);
    }
    const ended = await typeAll(folder, steps.length);
    for (const [at, step] of steps.entries()) {
      const why = await whyWrong(folder, at, step, ended[at]);
      if (why === null) continue;
      const output = await readFile(path.join(folder, `out-${at}`), 'utf8').catch(() => '');
      throw new Error(`${page.name}:${step.line}: ${why}\n--- typed:\n${step.shell}--- came out:\n${output}`);
    }
    return steps.filter(({ typed }) => typed !== null).length;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function whyWrong(
  folder: string,
  at: number,
  step: Step,
  status: number | undefined,
): Promise<string | null> {
  if (status === undefined) return 'this has not ended, or has ended the shell';
  const shown = step.typed?.output ?? null;
  if (shown !== null) {
    const output = await readFile(path.join(folder, `out-${at}`), 'utf8');
    return isAsShown(shown, output) ? null : `something else comes out than shown:\n${shown}`;
  }
  const failed = await readFile(path.join(folder, `failed-${at}`), 'utf8').catch(() => '');
  if (failed !== '') return `failed: ${failed.trim()}`;
  return status === 0 ? null : `ended with ${status}`;
}

/** Exit statuses, as far as the session came. */
async function typeAll(folder: string, count: number): Promise<number[]> {
  const env = {
    ...{ TERM: 'dumb', LANG: 'C.UTF-8', HOME: '/root', SESSION: folder, STEPS: String(count), TOP },
    PATH: `/session/bin:${path.dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    NODE: process.execPath,
    GUEST: process.env['COLO_GUEST_IMAGE'] ?? '',
    GUEST_AMD64: process.env['COLO_GUEST_IMAGE_AMD64'] ?? '',
  };
  const child = spawn(
    'setpriv',
    [
      '--pdeathsig',
      'KILL',
      'unshare',
      '--mount',
      '--net',
      '--pid',
      '--fork',
      '--kill-child=SIGKILL',
      'bash',
      path.join(folder, 'enter'),
    ],
    { env, stdio: ['ignore', 'inherit', 'inherit', 'pipe'] },
  );
  const deadline = setTimeout(() => child.kill('SIGKILL'), PAGE_DEADLINE_MS);
  const exited = once(child, 'exit');
  const ended: number[] = [];
  for await (const line of createInterface({ input: child.stdio[3] as Readable })) ended.push(Number(line));
  await exited;
  clearTimeout(deadline);
  return ended;
}
