/**
 * An accepted socket that reads into memory of our choice. Node lets only sockets that connect choose their read
 * buffers (`onread`); a server's would allocate 64 KiB a read, which is then copied and collected. So the connection
 * is moved to a socket made with that option: Node's own child_process moves handles in the same way.
 */
import { Socket } from 'node:net';

/** Where bytes go: `nextBuffer` is asked before each read, `received` told after it. Neither may throw. */
export interface ReceivingMemory {
  nextBuffer(): Uint8Array;
  received(count: number): void;
}

/** `accepted` comes from a server with `pauseOnConnect`: nothing was read from it. It must not be used afterwards. */
export function readIntoOwnMemory(accepted: Socket, memory: ReceivingMemory): Socket {
  const owner = accepted as unknown as { _handle: object | null };
  const handle = owner._handle;
  owner._handle = null;
  // Ends the server's count of it; the connection itself lives on.
  accepted.destroy();
  const options = {
    handle,
    allowHalfOpen: true,
    onread: {
      buffer: () => memory.nextBuffer(),
      callback: (count: number) => {
        memory.received(count);
        return true;
      },
    },
  };
  return new Socket(options);
}
