/** A QEMU without a machine (`-machine none`) asked over QMP: the judge of events and replies. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { EventLog } from '../../unit/block/jobs-helpers.ts';

/** False, or why the tests cannot run. */
export const missingQemu: string | false = (() => {
  try {
    execFileSync('qemu-system-x86_64', ['--version']);
    execFileSync('qemu-img', ['--version']);
    return false;
  } catch {
    return 'qemu-system-x86_64 and qemu-img are not installed';
  }
})();

interface Reply {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

export interface Qemu {
  readonly log: EventLog;
  execute(command: string, args?: Record<string, unknown>): Promise<Reply>;
}

/** `act` with a running QEMU that connects back to us, so that nothing has to be polled. */
export async function withQemu(
  folder: string,
  options: readonly string[],
  act: (qemu: Qemu) => Promise<void>,
): Promise<void> {
  const path = join(folder, 'qmp.sock');
  const server = createServer();
  server.listen(path);
  await once(server, 'listening');
  const child = spawn(
    'qemu-system-x86_64',
    ['-machine', 'none', '-nodefaults', '-nographic', '-qmp', `unix:${path}`, ...options],
    { stdio: ['ignore', 'ignore', 'ignore'] },
  );
  const exited = once(child, 'exit');
  const first = await Promise.race([
    once(server, 'connection'),
    exited.then(() => Promise.reject(new Error('QEMU ended before it spoke'))),
  ]);
  const socket = first[0] as Socket;
  const log = new EventLog();
  const replies: ((reply: Reply) => void)[] = [];
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line) as Reply & { event?: string; data?: Record<string, unknown> };
    if (message.event !== undefined) log.emit(message.event, message.data ?? {});
    else if ('return' in message || 'error' in message) replies.shift()?.(message);
  });
  const execute = (command: string, args?: Record<string, unknown>): Promise<Reply> =>
    new Promise((resolve) => {
      replies.push(resolve);
      socket.write(JSON.stringify({ execute: command, ...(args ? { arguments: args } : {}) }) + '\n');
    });
  try {
    await execute('qmp_capabilities');
    await act({ log, execute });
  } finally {
    socket.destroy();
    server.close();
    child.kill();
    await exited;
  }
}
