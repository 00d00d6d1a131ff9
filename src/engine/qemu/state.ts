/**
 * The state of QEMU's devices, as a migration stream in which RAM is ignored: it is in a shared file
 * (`x-ignore-shared`). Facts, asked of QEMU 7.2: a stopped machine can be migrated out and continued any number of
 * times; the stream of a PC with a VGA takes under 1 MB, nearly all of it video memory.
 */
import net from 'node:net';
import { Deferred, withDeadline } from '../../base/async.ts';
import { ColoError, ProtocolError } from '../../base/errors.ts';
import type { QemuChild } from './child.ts';

const MIGRATION_DEADLINE_MS = 30_000;
/** More than any machine's devices have; a bound on what a broken QEMU can make us hold. */
const MAX_STATE_BYTES = 512 * 1024 * 1024;

/** Once a child, before its first migration in either direction. */
export async function prepareMigration(child: QemuChild): Promise<void> {
  await child.execute('migrate-set-capabilities', {
    capabilities: ['x-ignore-shared', 'events'].map((capability) => ({ capability, state: true })),
  });
  // By default QEMU holds a stream back to 128 MiB/s.
  await child.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
}

/** Where a child's state comes out, as often as it is asked for. */
export class StateOutlet {
  readonly #child: QemuChild;
  readonly #path: string;
  readonly #listener = net.createServer();
  #arrived = new Deferred<net.Socket>();

  private constructor(child: QemuChild, path: string) {
    this.#child = child;
    this.#path = path;
    this.#listener.on('connection', (socket) => this.#arrived.resolve(socket));
  }

  static async open(child: QemuChild, path: string): Promise<StateOutlet> {
    const outlet = new StateOutlet(child, path);
    await new Promise<void>((resolve, reject) => {
      outlet.#listener.once('error', reject).listen(path, resolve);
    });
    return outlet;
  }

  /** The stopped machine's device state. Throws ColoError. */
  async capture(): Promise<Buffer> {
    this.#arrived = new Deferred();
    const completed = this.#child.qmp.waitFor(
      'MIGRATION',
      ({ data }) => data['status'] === 'completed' || data['status'] === 'failed',
      MIGRATION_DEADLINE_MS,
    );
    completed.catch(() => undefined); // told below
    await this.#child.execute('migrate', { uri: `unix:${this.#path}` });
    const socket = await withDeadline(this.#arrived.promise, MIGRATION_DEADLINE_MS, 'qemu: device state');
    const bytes = await readAll(socket);
    const { data } = await completed;
    if (data['status'] !== 'completed') throw await migrationError(this.#child, 'could not save its devices');
    return bytes;
  }

  close(): void {
    this.#listener.close();
  }
}

/** Makes a child that was started with `-incoming defer` listen at `path`. */
export async function awaitState(child: QemuChild, path: string): Promise<void> {
  await child.execute('migrate-incoming', { uri: `unix:${path}` });
}

/** Gives a waiting child its state. Throws ProtocolError when it does not take it. */
export async function feedState(child: QemuChild, path: string, state: Uint8Array): Promise<void> {
  const completed = child.qmp.waitFor(
    'MIGRATION',
    ({ data }) => data['status'] === 'completed' || data['status'] === 'failed',
    MIGRATION_DEADLINE_MS,
  );
  const socket = net.connect(path);
  socket.on('error', () => undefined); // QEMU says why
  socket.end(state);
  const outcome = await Promise.race([completed, child.ended]);
  if (outcome instanceof Error) throw new ProtocolError(`qemu did not take the state: ${outcome.message}`);
  if (outcome.data['status'] !== 'completed') throw await migrationError(child, 'did not take the state');
}

async function migrationError(child: QemuChild, what: string): Promise<ColoError> {
  const info = (await child.execute('query-migrate')) as { 'error-desc'?: string };
  return new ProtocolError(`qemu ${what}: ${info['error-desc'] ?? 'it gave no reason'}`);
}

async function readAll(socket: net.Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > MAX_STATE_BYTES) throw new ColoError('qemu: its device state has no end');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}
