/** Machine rooms with VMs that have no guest: folders, a spec, and rooms in processes of their own (room-daemon.ts). */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { LocalRoom } from '../../src/ha/room/index.ts';
import { readRecord } from '../../src/ha/room/process-record.ts';
import { killProcess } from '../../src/ha/room/process-identity.ts';
import { vmPaths } from '../../src/ha/room/vm-paths.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';

const DAEMON = fileURLToPath(new URL('./room-daemon.ts', import.meta.url));

/** `options` are the whole command line. */
export function bareSpec(name: string, options: readonly string[] = ['-machine', 'none']): VmSpec {
  return {
    version: 1,
    name,
    engine: 'v86',
    cpus: 1,
    memoryMiB: 32,
    disks: [],
    nics: [],
    hosts: [],
    checkpoint: { maxDelayMs: 1000 },
    heartbeat: { intervalMs: 100, patienceMs: 500, linkPatienceMs: 5000 },
    resync: { bytesPerSecond: 0 },
    options,
  };
}

export function roomAt(folder: string): LocalRoom {
  return new LocalRoom({
    address: '127.0.0.1',
    pairPorts: [41_100, 41_199],
    stateFolder: path.join(folder, 'state'),
    runFolder: path.join(folder, 'run'),
    commandLines: {
      primary: (spec) => spec.options,
      secondary: (spec) => [...spec.options, '-incoming', 'defer'],
    },
  });
}

/** A folder for rooms. What runs in it at the end of the test is killed. */
export async function roomFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-room-'));
  t.after(async () => {
    for (const name of await roomAt(folder).names()) {
      const record = readRecord(pathsAt(folder, name).record);
      if (record) killProcess(record);
    }
    await rm(folder, { recursive: true, force: true });
  });
  return folder;
}

export function pathsAt(folder: string, name: string): ReturnType<typeof vmPaths> {
  return vmPaths({ stateFolder: path.join(folder, 'state'), runFolder: path.join(folder, 'run') }, name);
}

export async function logOf(folder: string, name: string): Promise<string> {
  return readFile(pathsAt(folder, name).log, 'utf8');
}

/** A daemon that does one thing with one VM and tells what it sees, until it is killed. */
export class RoomDaemon {
  readonly child: ChildProcess;
  #lines: Record<string, unknown>[] = [];

  /** `prefix`: what it is run by. */
  constructor(
    t: TestContext,
    folder: string,
    verb: 'start' | 'adopt',
    spec: VmSpec,
    prefix: readonly string[] = [],
  ) {
    const words = [...prefix, process.execPath, '--import', 'tsx', DAEMON, folder, verb];
    this.child = spawn(
      words[0]!,
      [...words.slice(1), JSON.stringify(spec)],
      // Of its own, as a login session is.
      { stdio: ['ignore', 'pipe', 'inherit'], detached: true },
    );
    t.after(() => this.child.kill('SIGKILL'));
    createInterface(this.child.stdout!).on('line', (line) => {
      this.#lines.push(JSON.parse(line) as Record<string, unknown>);
      this.child.emit('told');
    });
  }

  /** The first line that has the member. Rejects when the daemon fails before. */
  async told(member: string): Promise<Record<string, unknown>> {
    for (;;) {
      const found = this.#lines.find((line) => member in line);
      if (found) return found;
      if (this.child.exitCode !== null || this.#lines.some((line) => 'error' in line))
        throw new Error(`the daemon has failed: ${JSON.stringify(this.#lines)}`);
      await Promise.race([once(this.child, 'told'), once(this.child, 'close')]);
    }
  }

  /** As a crash, or as a terminal that goes away. */
  async end(signal: 'SIGKILL' | 'SIGHUP'): Promise<void> {
    const gone = once(this.child, 'exit');
    process.kill(-this.child.pid!, signal);
    await gone;
  }
}
