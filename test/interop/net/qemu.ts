/** A QEMU without a guest (`-machine none`) that hosts network objects, and frame sockets to talk to it. */
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { FrameDecoder, encodeHeader } from '../../../src/net/framing.ts';

const QEMU = 'qemu-system-x86_64';
const PATIENCE_MS = 15_000;

export function whyNoQemu(): string | false {
  return spawnSync(QEMU, ['--version']).status === 0 ? false : `${QEMU} is not installed`;
}

export class Qemu {
  readonly #process: ChildProcess;
  stderr = '';

  private constructor(child: ChildProcess) {
    this.#process = child;
    child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString();
    });
  }

  /** Resolves when its monitor has greeted: chardevs are bound then, netdevs soon (`connecting`). */
  static async start(args: readonly string[]): Promise<Qemu> {
    const common = ['-machine', 'none', '-nodefaults', '-display', 'none', '-qmp', 'stdio'];
    const child = spawn(QEMU, [...common, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    const qemu = new Qemu(child);
    const greeted = new Deferred<void>();
    child.stdout.on('data', () => greeted.resolve());
    child.on('exit', () => greeted.reject(new Error(`QEMU has ended: ${qemu.stderr}`)));
    await withDeadline(greeted.promise, PATIENCE_MS, 'QEMU');
    return qemu;
  }

  /** Resolves when `text` is on its standard error output. */
  async said(text: string): Promise<void> {
    const wait = async (): Promise<void> => {
      while (!this.stderr.includes(text)) await once(this.#process.stderr!, 'data');
    };
    await withDeadline(wait(), PATIENCE_MS, `QEMU to say '${text}'`);
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    this.#process.kill('SIGKILL');
    await once(this.#process, 'exit');
  }
}

/** What `connect` gives as soon as the other side listens: QEMU binds its netdevs in a thread of their own. */
export async function connecting<T>(connect: () => Promise<T>): Promise<T> {
  const giveUpAt = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await connect();
    } catch (error) {
      if (performance.now() > giveUpAt) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** One end of a framed stream socket. */
export class FrameSocket {
  readonly frames: Uint8Array[] = [];
  /** Of each frame; 0 where there is none. */
  readonly vnetWords: number[] = [];
  /** How many of them somebody has looked at. */
  taken = 0;
  /** Resolves when the other end has gone. */
  readonly closed: Promise<void>;
  isClosed = false;
  readonly #socket: net.Socket;
  #changed = new Deferred<void>();

  private constructor(socket: net.Socket, vnetHdrSupport: boolean) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.isClosed = true;
        resolve();
        this.#changed.resolve();
      });
    });
    const decoder = new FrameDecoder({
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen) => {
        this.frames.push(new Uint8Array(bytes.subarray(from, to)));
        this.vnetWords.push(vnetHdrLen);
      },
      onError: (error) => {
        throw error;
      },
    });
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      decoder.push(chunk);
      const changed = this.#changed;
      this.#changed = new Deferred<void>();
      changed.resolve();
    });
  }

  static async connect(path: string, vnetHdrSupport = false): Promise<FrameSocket> {
    const socket = await connecting(async () => {
      const attempt = net.connect(path);
      await once(attempt, 'connect');
      return attempt;
    });
    return new FrameSocket(socket, vnetHdrSupport);
  }

  /** Bytes that need not be a frame. */
  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  send(frame: Uint8Array, vnetHdrLen: number | null = null): void {
    this.#socket.write(encodeHeader(new Uint8Array(8), frame.length, vnetHdrLen));
    this.#socket.write(frame);
  }

  sendBytes(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  async until(isTrue: (frames: readonly Uint8Array[]) => boolean, what: string): Promise<void> {
    const wait = async (): Promise<void> => {
      while (!isTrue(this.frames)) {
        if (this.isClosed) throw new Error(`${what}: the other end has gone`);
        await this.#changed.promise;
      }
    };
    await withDeadline(wait(), PATIENCE_MS, what);
  }

  close(): void {
    this.#socket.destroy();
  }
}
