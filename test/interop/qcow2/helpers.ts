/** QEMU's image tools as the other side of the tests, and temporary folders. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** False, or why the tests cannot run. */
export const missingTools: string | false = (() => {
  try {
    execFileSync('qemu-img', ['--version']);
    execFileSync('qemu-io', ['--version']);
    return false;
  } catch {
    return 'qemu-img and qemu-io (Debian: qemu-utils) are not installed';
  }
})();

export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a tool to its end. Never throws for its exit code (-1: ended by a signal). */
export function runTool(command: string, ...args: string[]): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { maxBuffer: 2 ** 24 }, (error, stdout, stderr) => {
      if (!error) resolve({ code: 0, stdout, stderr });
      else if (typeof error.code === 'number') resolve({ code: error.code, stdout, stderr });
      else if (error.signal) resolve({ code: -1, stdout, stderr });
      else reject(new Error(`${command}: ${error.message}`));
    });
  });
}

/** Runs a tool that has to succeed; gives its standard output. */
export async function tool(command: string, ...args: string[]): Promise<string> {
  const result = await runTool(command, ...args);
  if (result.code !== 0)
    throw new Error(
      `${command} ${args.join(' ')} ended with ${result.code}: ${result.stderr}${result.stdout}`,
    );
  return result.stdout;
}

/** `act` with a folder that is removed afterwards. */
export async function inFolder(act: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'colo-qcow2-'));
  try {
    await act(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
