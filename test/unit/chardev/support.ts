// Helpers of the chardev tests: a frontend that records, and waits that end with the event waited for.
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import type { ChardevFrontend } from '../../../src/chardev/chardev.ts';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import type { SocketChardevConfig } from '../../../src/chardev/socket.ts';

export class RecordingFrontend implements ChardevFrontend {
  readonly calls: string[] = [];
  received = Buffer.alloc(0);
  #wakers: (() => void)[] = [];

  onData(chunk: Uint8Array): void {
    this.received = Buffer.concat([this.received, chunk]);
    this.#wake();
  }

  onOpen(): void {
    this.calls.push('open');
    this.#wake();
  }

  onClose(): void {
    this.calls.push('close');
    this.#wake();
  }

  /** Resolves once `condition` holds; looked at after each call. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#wakers.push(resolve));
  }

  #wake(): void {
    for (const wake of this.#wakers.splice(0)) wake();
  }
}

export function socketConfig(config: Partial<SocketChardevConfig>): SocketChardevConfig {
  return {
    backend: 'socket',
    id: 'c0',
    address: { type: 'inet', host: '127.0.0.1', port: '0' },
    server: true,
    wait: false,
    nodelay: true,
    reconnectMs: 0,
    ...config,
  };
}

export async function openSocket(
  t: TestContext,
  config: Partial<SocketChardevConfig> = {},
): Promise<SocketChardev> {
  const chardev = new SocketChardev(socketConfig(config));
  t.after(() => chardev.close());
  await chardev.open();
  return chardev;
}

/** The TCP port that a server chardev was given. */
export function portOf(chardev: SocketChardev): number {
  const address = chardev.listening;
  if (address?.type !== 'inet') throw new Error('not listening on a port');
  return Number(address.port);
}

export async function connectTo(t: TestContext, chardev: SocketChardev): Promise<net.Socket> {
  const address = chardev.listening;
  const socket =
    address?.type === 'unix' ? net.connect(address.path) : net.connect(portOf(chardev), '127.0.0.1');
  socket.on('error', () => undefined);
  t.after(() => socket.destroy());
  await once(socket, 'connect');
  return socket;
}

export async function tempFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-chardev-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Lets the event loop go round, so that what is ready to happen has happened. */
export async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}
