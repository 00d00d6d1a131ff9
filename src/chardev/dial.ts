/**
 * Opens the sockets of a chardev: one outgoing connection with a deadline, or one listening server. The errors carry
 * QEMU's texts (docs/qemu-behaviour.md 7.2: "Failed to connect to '…': Connection refused"). Who serves whom is
 * socket.ts's affair.
 */
import { access, lstat, unlink } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { ClosedError, ColoError, ParameterError, TimeoutError } from '../base/errors.ts';
import { intoMemory } from '../base/own-memory-socket.ts';
import type { ReceivingMemory } from '../base/own-memory-socket.ts';
import { UNIX_PATH_MAX_BYTES, formatAddress, formatHostPort } from './address.ts';
import type { InetAddress, SocketAddress, UnixAddress } from './address.ts';
import { codeOf, systemErrorText } from './system-errors.ts';

/** A socket of a chardev could not be opened: the peer is not there, the port is taken, the name is unknown. */
export class ChardevOpenError extends ColoError {}

/** The port as a number. Throws ChardevOpenError: service names are not looked up. */
function portOf(address: InetAddress): number {
  const port = /^\d{1,5}$/.test(address.port) ? Number(address.port) : NaN;
  if (port <= 65535) return port;
  throw resolutionError(address, 'Servname not supported for ai_socktype');
}

function resolutionError(address: InetAddress, text: string, cause?: unknown): ChardevOpenError {
  const name = formatHostPort(address.host, address.port);
  return new ChardevOpenError(`address resolution failed for ${name}: ${text}`, { cause });
}

function checkUnixPath(address: UnixAddress): void {
  if (Buffer.byteLength(address.path) > UNIX_PATH_MAX_BYTES) {
    throw new ParameterError(
      `UNIX socket path '${address.path}' is too long\nPath must be less than ${UNIX_PATH_MAX_BYTES + 1} bytes`,
    );
  }
}

function familyOf(address: InetAddress): 4 | 6 | 0 {
  if (address.ipv4 === true && address.ipv6 !== true) return 4;
  if (address.ipv6 === true && address.ipv4 !== true) return 6;
  if (address.ipv4 === false) return 6;
  return address.ipv6 === false ? 4 : 0;
}

/**
 * Connects. The socket returned is paused: nothing is read from the kernel before `resume()`.
 * Throws ChardevOpenError, TimeoutError after `deadlineMs`, ClosedError when `signal` is aborted.
 */
export function connectSocket(
  address: SocketAddress,
  options: {
    readonly noDelay: boolean;
    readonly deadlineMs: number;
    readonly signal: AbortSignal;
    /** Where it reads to; without it, it emits 'data'. */
    readonly memory?: ReceivingMemory;
  },
): Promise<net.Socket> {
  const { deadlineMs, noDelay, signal, memory } = options;
  const name = formatAddress(address);
  return new Promise((resolve, reject) => {
    if (address.type === 'unix') checkUnixPath(address);
    const target: net.NetConnectOpts =
      address.type === 'unix'
        ? { path: address.path }
        : { host: address.host || 'localhost', port: portOf(address), family: familyOf(address), noDelay };
    const socket = new net.Socket(memory && intoMemory(memory));
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      socket.off('error', onError);
    };
    const fail = (error: Error): void => {
      finish();
      socket.on('error', () => undefined);
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => fail(new ClosedError(`Connecting to '${name}' was broken off`));
    const onError = (error: Error): void => {
      const code = codeOf(error);
      const lookup = address.type === 'inet' && (code === 'ENOTFOUND' || code.startsWith('EAI_'));
      const text = systemErrorText(error);
      if (lookup) fail(resolutionError(address, text, error));
      else fail(new ChardevOpenError(`Failed to connect to '${name}': ${text}`, { cause: error }));
    };
    const timer = setTimeout(
      () => fail(new TimeoutError(`Failed to connect to '${name}': no answer within ${deadlineMs} ms`)),
      deadlineMs,
    );
    signal.addEventListener('abort', onAbort, { once: true });
    socket.on('error', onError);
    socket.once('connect', () => {
      finish();
      resolve(socket);
    });
    // Paused before it connects: bytes that arrive now stay in the kernel until somebody wants them.
    socket.pause();
    if (signal.aborted) onAbort();
    else socket.connect(target);
  });
}

function listenOnce(server: net.Server, options: net.ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => {
      server.off('listening', onListening);
      reject(error);
    };
    const onListening = (): void => {
      server.off('error', onError);
      resolve();
    };
    server.once('error', onError);
    server.once('listening', onListening);
    server.listen(options);
  });
}

/** A socket left over by a process that died would refuse the new server its name. Never removes anything else. */
async function removeStaleSocket(file: string): Promise<void> {
  try {
    const stats = await lstat(file);
    if (!stats.isSocket()) throw new ChardevOpenError(`Failed to unlink socket ${file}: it is not a socket`);
    await unlink(file);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    if (error instanceof ColoError) throw error;
    throw new ChardevOpenError(`Failed to unlink socket ${file}: ${systemErrorText(error)}`, {
      cause: error,
    });
  }
}

/** libuv reports a missing folder as "permission denied". */
async function bindErrorText(file: string, error: unknown): Promise<string> {
  if (codeOf(error) !== 'EACCES') return systemErrorText(error);
  const missing = await access(path.dirname(file)).then(
    () => false,
    (cause: unknown) => codeOf(cause) === 'ENOENT',
  );
  return missing ? 'No such file or directory' : systemErrorText(error);
}

/** Makes `server` listen. For inet addresses with `to`, on the first free port of the range. Throws ChardevOpenError. */
export async function listenSocket(server: net.Server, address: SocketAddress): Promise<void> {
  if (address.type === 'unix') {
    checkUnixPath(address);
    await removeStaleSocket(address.path);
    try {
      await listenOnce(server, { path: address.path });
    } catch (error) {
      const text = await bindErrorText(address.path, error);
      throw new ChardevOpenError(`Failed to bind socket to ${address.path}: ${text}`, { cause: error });
    }
    return;
  }
  const first = portOf(address);
  const last = Math.min(65535, Math.max(first, address.to ?? first));
  const family = familyOf(address);
  const anyHost = family === 4 ? '0.0.0.0' : family === 6 ? '::' : undefined;
  const host = address.host || anyHost;
  const fixed = { ...(host === undefined ? {} : { host }), ...(family === 6 ? { ipv6Only: true } : {}) };
  for (let port = first; ; port++) {
    try {
      await listenOnce(server, { ...fixed, port });
      return;
    } catch (error) {
      const code = codeOf(error);
      if (code === 'EADDRINUSE' && port < last) continue;
      const text = systemErrorText(error);
      if (code === 'ENOTFOUND' || code.startsWith('EAI_')) throw resolutionError(address, text, error);
      const what = code === 'EADDRINUSE' ? 'Failed to find an available port' : 'Failed to bind socket';
      throw new ChardevOpenError(`${what}: ${text}`, { cause: error });
    }
  }
}
