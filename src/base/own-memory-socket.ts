/**
 * Sockets that read into memory of our choice: one that connects is made with `intoMemory`, one that a server accepted
 * is moved to such a socket. Node lets only sockets that connect choose their read buffers (`onread`); a server's would
 * allocate 64 KiB a read, which is then copied and collected. Node's own child_process moves handles in the same way.
 */
import { Socket } from 'node:net';
import type { OnReadOpts, SocketConstructorOpts } from 'node:net';

/** Where bytes go. `received` is told after each read, and may not throw. False: nothing is read until `resume`. */
export interface ReceivingMemory {
  /** Always the same memory, or what is asked for before each read; that may not throw either. */
  readonly buffer: Uint8Array | (() => Uint8Array);
  received(count: number): boolean;
}

/** The option of a socket that is going to connect. */
export function intoMemory(memory: ReceivingMemory): SocketConstructorOpts & { readonly onread: OnReadOpts } {
  const onread = {
    buffer: memory.buffer,
    callback: (count: number) => memory.received(count),
  };
  return { onread };
}

/**
 * Leaves a socket that reads into own memory paused, in such a way that from now on `pause` and `resume` act at once.
 * Else the first `resume` reads once more in the next tick, although `pause` was called meanwhile.
 */
export function pauseAtOnce(socket: Socket): void {
  socket.read(0);
  socket.pause();
}

/**
 * `accepted` comes from a server with `pauseOnConnect`: nothing was read from it. It must not be used afterwards. The
 * socket returned reads at once, or with `isPaused` after its `resume`.
 */
export function readIntoOwnMemory(accepted: Socket, memory: ReceivingMemory, isPaused = false): Socket {
  const owner = accepted as unknown as { _handle: object | null };
  const handle = owner._handle;
  owner._handle = null;
  // Ends the server's count of it; the connection itself lives on.
  accepted.destroy();
  const options = { handle, allowHalfOpen: true, pauseOnCreate: isPaused, ...intoMemory(memory) };
  return new Socket(options);
}
