/**
 * The state of QEMU's devices, as a migration stream in which RAM is ignored: it is in a shared file
 * (`x-ignore-shared`). Facts, asked of QEMU 7.2: a stopped machine can be migrated out and continued any number of
 * times; the stream of a PC with a VGA takes under 1 MB, nearly all of it video memory.
 */
import type net from 'node:net';
import { ColoError, ProtocolError, messageOf } from '../../base/errors.ts';
import { CHILD_FD } from './child.ts';
import type { QemuChild } from './child.ts';
import { MAX_STREAM_BYTES } from './device-codec.ts';
import { pathOfFd } from './hidden-socket.ts';
import type { HiddenListener } from './hidden-socket.ts';

const MIGRATION_DEADLINE_MS = 30_000;

/** Once a child. `incomingFd`: it waits for a state there, started with `-incoming defer`. */
export async function prepareMigration(child: QemuChild, incomingFd: number | null): Promise<void> {
  const steps = [
    child.execute('migrate-set-capabilities', {
      capabilities: ['x-ignore-shared', 'events'].map((capability) => ({ capability, state: true })),
    }),
    // By default QEMU holds a stream back to 128 MiB/s, and announces its NICs after each load: those frames would pass
    // for the guest's.
    child.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40, 'announce-rounds': 0 }),
  ];
  if (incomingFd !== null) steps.push(child.execute('migrate-incoming', { uri: `fd:${incomingFd}` }));
  await Promise.all(steps);
}

/** The stopped machine's device state, which comes out at `outlet`. Throws ColoError. */
export async function captureState(child: QemuChild, outlet: HiddenListener): Promise<Buffer> {
  const stream = outlet.next().then(readAll);
  const completed = awaitEnd(child, 'could not save its devices');
  const begun = child.execute('migrate', { uri: `unix:${pathOfFd(CHILD_FD.state)}` });
  try {
    const [bytes] = await Promise.all([stream, completed, begun]);
    return bytes;
  } finally {
    outlet.giveUp();
    for (const one of [stream, completed]) one.catch(() => undefined);
  }
}

/** Gives a waiting child its state. Throws ProtocolError when it does not take it; it is of no use then. */
export async function feedState(child: QemuChild, pipe: net.Socket, state: Uint8Array): Promise<void> {
  const completed = awaitEnd(child, 'did not take the state');
  pipe.end(state);
  try {
    await completed;
  } catch (cause) {
    if (cause instanceof ProtocolError) throw cause;
    throw new ProtocolError(`qemu did not take the state: ${messageOf(cause)}`, { cause });
  }
}

/** Throws ProtocolError when the migration that is about to begin fails, ClosedError when QEMU ends, TimeoutError. */
async function awaitEnd(child: QemuChild, failure: string): Promise<void> {
  const status = await child.migrationStatus(['completed', 'failed'], MIGRATION_DEADLINE_MS);
  if (status === 'completed') return;
  const info = (await child.execute('query-migrate')) as { 'error-desc'?: string };
  throw new ProtocolError(`qemu ${failure}: ${info['error-desc'] ?? 'it gave no reason'}`);
}

async function readAll(socket: net.Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > MAX_STREAM_BYTES) {
      throw new ColoError(
        `qemu: the state of its devices is larger than ${MAX_STREAM_BYTES} bytes; give it less video memory (vgamem_mb=)`,
      );
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}
