/**
 * A unix socket that only its owner may open (mode 0600), under a name that may be taken by what a dead daemon left.
 * The socket is made in a folder of its own that nobody else may enter, and renamed to its place when its mode is right:
 * no moment in which others could connect, whatever the umask, and none in which the name is missing.
 */
import { once } from 'node:events';
import { chmod, lstat, mkdtemp, rename, rm } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import path from 'node:path';
import { messageOf, ParameterError } from '../base/errors.ts';
import { BusyError } from '../ha/errors.ts';

/** sockaddr_un's sun_path without its zero (unix(7)), less what the folder adds to the name. */
const MAX_PATH_BYTES = 107 - 9;

/** Throws ParameterError when the name cannot be had, BusyError when somebody listens there. */
export async function listenPrivately(server: Server, socketPath: string): Promise<void> {
  if (Buffer.byteLength(socketPath) > MAX_PATH_BYTES) {
    throw new ParameterError(
      `${socketPath}: longer than the ${MAX_PATH_BYTES} bytes that a unix socket's name may have; take a shorter run folder`,
    );
  }
  await makeSureNobodyListens(socketPath);
  let folder: string;
  try {
    folder = await mkdtemp(`${socketPath}.`);
  } catch (cause) {
    throw new ParameterError(`${socketPath}: cannot be made: ${messageOf(cause)}`, { cause });
  }
  try {
    const made = path.join(folder, 's');
    server.listen({ path: made });
    await once(server, 'listening');
    await chmod(made, 0o600);
    await rename(made, socketPath);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function makeSureNobodyListens(socketPath: string): Promise<void> {
  const there = await lstat(socketPath).catch(() => null);
  if (!there) return;
  if (!there.isSocket()) throw new ParameterError(`${socketPath}: there is a file that is not a socket`);
  const socket = connect({ path: socketPath });
  try {
    await once(socket, 'connect');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ECONNREFUSED') return;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw new ParameterError(`${socketPath}: ${messageOf(error)}`, { cause: error });
  } finally {
    socket.destroy();
  }
  throw new BusyError(`${socketPath}: another daemon listens there; stop it first`);
}
