/** RFB's handshake from both ends (RFC 6143, 7.1 and 7.3), without authentication. */
import type net from 'node:net';
import { Deferred } from '../../base/async.ts';
import { ClosedError, ColoError } from '../../base/errors.ts';
import { RFB_VERSION, SECURITY_NONE } from './rfb.ts';

/** The longest name of a desktop; QEMU's is `QEMU (NAME)`. */
const MAX_NAME_BYTES = 4096;

/** Resolves with so many bytes. The socket must not flow. Throws ClosedError when it ends first. */
async function take(socket: net.Socket, length: number): Promise<Buffer> {
  if (length === 0) return Buffer.alloc(0);
  for (;;) {
    const got = socket.read(length) as Buffer | null;
    if (got?.length === length) return got;
    if (got || socket.destroyed || socket.readableEnded) throw new ClosedError('VNC: the connection ended');
    const more = new Deferred<void>();
    const wake = (): void => more.resolve();
    socket.once('readable', wake).once('end', wake).once('close', wake);
    await more.promise;
    socket.off('readable', wake).off('end', wake).off('close', wake);
  }
}

/** Greets a server; `ServerInit` as it came, or null when it does not do without authentication. */
export async function greetServer(socket: net.Socket): Promise<Buffer | null> {
  const version = (await take(socket, 12)).toString('latin1');
  if (!version.startsWith('RFB 003.008')) throw new ColoError(`VNC: a server of version ${version.trim()}`);
  socket.write(RFB_VERSION);
  const [count = 0] = await take(socket, 1);
  const types = await take(socket, count);
  if (!types.includes(SECURITY_NONE)) return null;
  socket.write(Uint8Array.of(SECURITY_NONE));
  if ((await take(socket, 4)).readUInt32BE(0) !== 0) throw new ColoError('VNC: the server refuses');
  // Shared: our connections must not end each other.
  socket.write(Uint8Array.of(1));
  const fixed = await take(socket, 24);
  const nameBytes = fixed.readUInt32BE(20);
  if (nameBytes > MAX_NAME_BYTES) throw new ColoError('VNC: the name of the desktop is too long');
  return Buffer.concat([fixed, await take(socket, nameBytes)]);
}

/** Greets a client and tells it `init`. */
export async function greetClient(socket: net.Socket, init: Buffer): Promise<void> {
  socket.write(RFB_VERSION);
  const minor = /^RFB 003\.(\d{3})\n$/.exec((await take(socket, 12)).toString('latin1'))?.[1];
  if (minor === undefined) throw new ColoError('VNC: a client that does not speak RFB 3');
  if (Number(minor) < 7) socket.write(Uint8Array.of(0, 0, 0, SECURITY_NONE));
  else {
    socket.write(Uint8Array.of(1, SECURITY_NONE));
    const [type] = await take(socket, 1);
    if (type !== SECURITY_NONE) throw new ColoError('VNC: a client that wants another security type');
    if (Number(minor) >= 8) socket.write(Uint8Array.of(0, 0, 0, 0));
  }
  await take(socket, 1);
  socket.write(init);
}
