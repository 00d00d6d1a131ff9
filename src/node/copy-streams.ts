/**
 * What a person can see of a copy that runs on this host: its first serial port, and the VNC server of one that has it.
 * Whoever looks at a copy that follows another is not let at its keys: what is typed would reach one of two, and be gone
 * with the next checkpoint. Of a console that is seen to here; of a screen, by the VM's own VNC server (vm/vnc).
 */
import net from 'node:net';
import { Duplex } from 'node:stream';
import { ColoError } from '../base/errors.ts';
import type { RunningVm } from '../ha/index.ts';

/** Throws ColoError. */
export async function openConsole(vm: RunningVm, mayType: () => boolean): Promise<Duplex> {
  const socket = await connected(vm.consolePath, `the console of '${vm.name}' cannot be reached`);
  return new GuardedStream(socket, mayType);
}

/** Throws ColoError. */
export function openScreen(vm: RunningVm): Promise<Duplex> {
  return connected(
    vm.vncPath,
    `'${vm.name}' has no VNC server: it was started by an earlier version, and gets one when it is started again`,
  );
}

function connected(path: string, what: string): Promise<net.Socket> {
  const socket = net.connect(path);
  return new Promise((resolve, reject) => {
    socket.once('connect', () => resolve(socket));
    socket.once('error', (cause) => reject(new ColoError(what, { cause })));
  });
}

/** A socket whose input is discarded at times. */
export class GuardedStream extends Duplex {
  readonly #socket: net.Socket;
  readonly #mayWrite: () => boolean;

  constructor(socket: net.Socket, mayWrite: () => boolean) {
    super();
    this.#socket = socket;
    this.#mayWrite = mayWrite;
    socket.on('data', (bytes: Buffer) => {
      if (!this.push(bytes)) socket.pause();
    });
    socket.on('end', () => this.push(null));
    socket.on('error', (error) => this.destroy(error));
    socket.on('close', () => this.destroy());
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#mayWrite()) this.#socket.write(bytes, done);
    else done();
  }

  override _final(done: () => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}
