/**
 * Runs the real NBD tools that our client and server are tested with: qemu-utils (qemu-img, qemu-io, qemu-nbd),
 * libnbd-bin (nbdinfo, nbdcopy) and nbdkit. A test that needs one that is missing says so and is skipped.
 */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Cleanup } from '../../unit/nbd/support.ts';

/** False when all tools can be run, else why not: for `{ skip }`. */
export function missing(...tools: string[]): string | false {
  const absent = tools.filter(
    (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).error !== undefined,
  );
  return absent.length > 0 ? `not installed: ${absent.join(', ')}` : false;
}

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a tool to its end; one that hangs is ended after 30 seconds, which fails its test. */
export function run(tool: string, ...args: string[]): Promise<Run> {
  return new Promise((resolve, reject) => {
    execFile(tool, args, { timeout: 30_000, maxBuffer: 2 ** 24 }, (error, stdout, stderr) => {
      const code = error?.code ?? 0;
      if (typeof code === 'number' && !error?.killed) resolve({ code, stdout, stderr });
      else reject(new Error(`${tool} ${args.join(' ')}: ${error?.message ?? ''} ${stderr}`));
    });
  });
}

/** As `run`, and it must succeed: returns what it printed. */
export async function mustRun(tool: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(tool, ...args);
  if (code !== 0) throw new Error(`${tool} ${args.join(' ')} failed with ${code}: ${stdout}${stderr}`);
  return stdout;
}

export interface Peer {
  /** Ends it as a crash would. */
  kill(): Promise<void>;
}

/** Starts an NBD server that listens on `socketPath`, and ends it with the test. */
export async function startPeer(
  t: Cleanup,
  socketPath: string,
  tool: string,
  ...args: string[]
): Promise<Peer> {
  const child = spawn(tool, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const exited = once(child, 'exit');
  t.after(async () => {
    child.kill('SIGTERM');
    await exited;
  });
  while (!(await canConnect(socketPath))) {
    if (child.exitCode !== null) throw new Error(`${tool} ended: ${stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return {
    kill: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

function canConnect(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
