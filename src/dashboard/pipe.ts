/**
 * A console or a screen: the bytes of one of a VM's ports on a WebSocket, each way at the pace of its reader. Nothing is
 * kept beyond a bound: a browser that does not read makes the port wait, a port that does not read makes the browser.
 */
import type { Duplex } from 'node:stream';
import type { RawData, WebSocket } from 'ws';
import { CLOSE, closeReason } from './watcher.ts';
import { toldOf } from './questions.ts';

/** Unsent bytes at which the port waits. */
export const MAX_PIPE_UNSENT_BYTES = 256 * 1024;

export interface PipeOptions {
  /** What the browser sends is dropped. */
  readonly isReadOnly: boolean;
}

/** Until either end goes; the other one follows. */
export function pipe(socket: WebSocket, port: Duplex, { isReadOnly }: PipeOptions): void {
  const sent = (): void => {
    if (port.isPaused() && socket.bufferedAmount <= MAX_PIPE_UNSENT_BYTES) port.resume();
  };
  port.on('data', (bytes: Buffer) => {
    socket.send(bytes, BINARY, sent);
    if (socket.bufferedAmount > MAX_PIPE_UNSENT_BYTES) port.pause();
  });
  port.once('end', () => socket.close(1000, 'it has ended'));
  port.once('close', () => socket.close(1000, 'it has ended'));
  port.on('error', (error) => {
    socket.close(CLOSE.failed, closeReason(toldOf(error)));
    port.destroy();
  });
  socket.on('message', (data: RawData) => {
    if (isReadOnly || port.destroyed || port.writableEnded) return;
    if (!port.write(data)) socket.pause();
  });
  port.on('drain', () => socket.resume());
  socket.once('close', () => port.destroy());
}

const BINARY = { binary: true } as const;
