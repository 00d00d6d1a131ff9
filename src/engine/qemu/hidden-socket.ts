/**
 * Unix sockets of ours that QEMU connects to and nobody else: a socket is bound in a private folder, opened with O_PATH,
 * and its folder removed at once. A child that inherits the descriptor connects to /proc/self/fd/N, as often as it likes
 * and however long the folder's path was. So a death of any of us leaves no file behind, but for the millisecond in
 * which a socket still has its name; what such a death left is swept by the next one that is made.
 */
import { closeSync, openSync, readdirSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Deferred } from '../../base/async.ts';
import { ClosedError } from '../../base/errors.ts';
import { isAlive } from '../../base/processes.ts';

const PREFIX = 'colo-qemu-';
/** Linux, uapi/asm-generic/fcntl.h; Node.js has no name for it. */
const O_PATH = 0o10000000;
/** sockaddr_un's path without its final zero, and the room that a folder's and a socket's own name take. */
const MAX_SOCKET_PATH_BYTES = 107;
const OWN_NAME_BYTES = 40;

/** How a child names a descriptor that it has inherited. */
export function pathOfFd(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

/** `listen` binds at the path that it is given. The result is for a child's `stdio`; the caller closes it. */
export async function hideSocket(listen: (socketPath: string) => Promise<unknown>): Promise<number> {
  sweep(base());
  const folder = await mkdtemp(path.join(base(), `${PREFIX}${process.pid}-`));
  try {
    const socketPath = path.join(folder, 's');
    await listen(socketPath);
    return openSync(socketPath, O_PATH);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A hidden socket whose connections are waited for one at a time. One that nobody waits for is refused. */
export class HiddenListener {
  readonly fd: number;
  readonly #listener: net.Server;
  #waiting: Deferred<net.Socket> | null = null;
  #isClosed = false;

  private constructor(fd: number, listener: net.Server) {
    this.fd = fd;
    this.#listener = listener;
    listener.on('connection', (socket) => {
      socket.on('error', () => undefined); // whoever uses it sees its end
      if (!this.#waiting) socket.destroy();
      this.#waiting?.resolve(socket);
      this.#waiting = null;
    });
  }

  static async open(): Promise<HiddenListener> {
    const listener = net.createServer();
    const fd = await hideSocket(
      (socketPath) =>
        new Promise<void>((resolve, reject) => {
          listener.once('error', reject).listen(socketPath, resolve);
        }),
    );
    return new HiddenListener(fd, listener);
  }

  /** The next connection. Whoever waited before is told that it is given up. */
  next(): Promise<net.Socket> {
    this.giveUp();
    const waiting = new Deferred<net.Socket>();
    waiting.promise.catch(() => undefined); // told to whoever waits, if anybody still does
    if (this.#isClosed) waiting.reject(new ClosedError('qemu: its socket is closed'));
    else this.#waiting = waiting;
    return waiting.promise;
  }

  giveUp(): void {
    this.#waiting?.reject(new ClosedError('qemu: nobody waits for its connection any more'));
    this.#waiting = null;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.giveUp();
    this.#listener.close();
    closeSync(this.fd);
  }
}

/** The folder for temporary files, unless a socket's path would be too long there. */
function base(): string {
  const folder = os.tmpdir();
  return Buffer.byteLength(folder) + OWN_NAME_BYTES <= MAX_SOCKET_PATH_BYTES ? folder : '/tmp';
}

function sweep(where: string): void {
  for (const name of readdirSync(where)) {
    const owner = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (owner === undefined || isAlive(Number(owner))) continue;
    try {
      rmSync(path.join(where, name), { recursive: true, force: true });
    } catch {
      // Somebody else's: theirs to sweep.
    }
  }
}
