/** Runs the built `colo` program as a user would: processes, their standard streams, their ends. */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const COLO = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const run = promisify(execFile);

/** Runs to its end. Rejects with the output in the message when the exit status is not 0. */
export async function colo(...args: string[]): Promise<string> {
  const { stdout } = await run(process.execPath, [COLO, ...args], { maxBuffer: 1 << 24 });
  return stdout;
}

export class ColoProcess {
  readonly child: ChildProcessWithoutNullStreams;
  stderr = '';

  constructor(...args: string[]) {
    this.child = spawn(process.execPath, [COLO, ...args]);
    this.child.stderr.setEncoding('utf8');
    this.child.stderr.on('data', (text: string) => (this.stderr += text));
    if (process.env['COLO_LOG'] !== undefined) this.child.stderr.pipe(process.stderr);
    this.child.stdin.on('error', () => undefined);
  }

  /** Resolves with standard output so far once it matches. Rejects when the process ends first. */
  async untilOutput(pattern: RegExp): Promise<string> {
    let text = '';
    this.child.stdout.setEncoding('utf8');
    for await (const chunk of this.child.stdout) {
      text += chunk as string;
      if (pattern.test(text)) return text;
    }
    throw new Error(`ended without ${pattern.source}: ${text}${this.stderr}`);
  }

  get isAlive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (!this.isAlive) return;
    const gone = once(this.child, 'exit');
    this.child.kill(signal);
    await gone;
  }
}

/** Polls for a condition that no event announces. Throws with `what` after `timeoutMs`. */
export async function until(
  what: string,
  timeoutMs: number,
  condition: () => Promise<boolean> | boolean,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
