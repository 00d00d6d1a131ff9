/** Two connected TCP sockets on loopback, with a hand on the wire between them. */
import net from 'node:net';
import { once } from 'node:events';

export interface SocketPair {
  readonly left: net.Socket;
  readonly right: net.Socket;
  close(): void;
}

export async function socketPair(): Promise<SocketPair> {
  const server = net.createServer({ pauseOnConnect: false });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const left = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
  const [right] = (await once(server, 'connection')) as [net.Socket];
  if (left.connecting) await once(left, 'connect');
  server.close();
  return {
    left,
    right,
    close: () => {
      left.destroy();
      right.destroy();
    },
  };
}

/** What passes from left to right goes through `tap`; returning null cuts both connections. */
export async function tappedPair(tap: (chunk: Buffer, total: number) => Buffer | null): Promise<SocketPair> {
  const a = await socketPair();
  const b = await socketPair();
  let total = 0;
  a.right.on('data', (chunk: Buffer) => {
    const out = tap(chunk, total);
    total += chunk.byteLength;
    if (out === null) {
      a.right.destroy();
      b.left.destroy();
    } else b.left.write(out);
  });
  b.left.on('data', (chunk: Buffer) => a.right.write(chunk));
  for (const socket of [a.right, b.left]) socket.on('error', () => undefined);
  a.right.on('close', () => b.left.end());
  b.left.on('close', () => a.right.end());
  return {
    left: a.left,
    right: b.right,
    close: () => {
      a.close();
      b.close();
    },
  };
}
