/**
 * Test help: a guest image on stock QEMU with its services forwarded to loopback ports, and clients to talk to them.
 *
 * It runs QEMU as an ordinary child process; our own engines are not involved.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import { access } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

export const TEST_CACHE = join(tmpdir(), `colo-ft-test-cache-${userInfo().uid}`);
const READY = 'colo-guest: ready';
const BOOT_PATIENCE_MS = 120_000;
const ANSWER_PATIENCE_MS = 15_000;
/** The guest's TCP ports; 7 is forwarded for UDP as well, on the same host port. */
const PORTS = [80, 7, 7000, 7001] as const;
export type GuestPort = (typeof PORTS)[number];

export interface MachineOptions {
  readonly image: string;
  readonly nic: string;
  readonly qemu?: string;
  /** Extra QEMU arguments; `-drive` is ours. */
  readonly args?: readonly string[];
  readonly diskInterface?: string;
  /** Options of `-nic user`, and the address in it that ports are forwarded to. */
  readonly net?: string;
  readonly address?: string;
}

export class GuestMachine {
  readonly ports: ReadonlyMap<GuestPort, number>;
  readonly #child: ChildProcess;
  #console = '';

  private constructor(child: ChildProcess, ports: ReadonlyMap<GuestPort, number>) {
    this.#child = child;
    this.ports = ports;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (data: Buffer) => {
        this.#console += data.toString('latin1');
      });
    }
  }

  /** Boots the image and waits until its services listen. */
  static async boot(options: MachineOptions): Promise<GuestMachine> {
    const ports = new Map<GuestPort, number>();
    for (const port of PORTS) ports.set(port, await freePort());
    const address = options.address ?? '';
    const forwards = PORTS.map((port) => `hostfwd=tcp:127.0.0.1:${ports.get(port)!}-${address}:${port}`);
    forwards.push(`hostfwd=udp:127.0.0.1:${ports.get(7)!}-${address}:7`);
    const nic = [
      'user',
      `model=${options.nic}`,
      ...(options.net === undefined ? [] : [options.net]),
      ...forwards,
    ];
    const drive = `file=${options.image},format=qcow2,if=${options.diskInterface ?? 'ide'}`;
    const child = spawn(
      options.qemu ?? 'qemu-system-i386',
      [
        ...['-m', '128', '-accel', 'tcg', '-drive', drive, '-nic', nic.join(',')],
        ...[
          '-display',
          'none',
          '-serial',
          'stdio',
          '-monitor',
          'none',
          '-no-reboot',
          ...(options.args ?? []),
        ],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    const machine = new GuestMachine(child, ports);
    await machine.waitFor(READY, BOOT_PATIENCE_MS);
    return machine;
  }

  /** Waits until the serial console has shown `text`. */
  async waitFor(text: string, patienceMs = ANSWER_PATIENCE_MS): Promise<void> {
    const deadline = Date.now() + patienceMs;
    while (!this.#console.includes(text)) {
      if (Date.now() > deadline || this.#child.exitCode !== null) {
        this.#child.kill('SIGKILL');
        throw new Error(`"${text}" did not appear on the console:\n${this.#console.slice(-2000)}`);
      }
      await sleep(50);
    }
  }

  /** Types on the serial console. */
  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** A client of one of the guest's line protocols. */
  client(port: GuestPort): LineClient {
    return new LineClient(this.ports.get(port)!);
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.ports.get(80)!}${path}`;
  }

  /** Resolves when the guest has powered itself off. */
  async poweredOff(): Promise<void> {
    if (this.#child.exitCode === null)
      await once(this.#child, 'exit', { signal: AbortSignal.timeout(60_000) });
  }

  /** The plug is pulled: no shutdown, no flush. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
  }
}

/** Sends lines and takes lines, in order. */
export class LineClient {
  readonly socket: Socket;
  #received = '';
  #ended = false;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('data', (data: Buffer) => {
      this.#received += data.toString('latin1');
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => {
      this.#ended = true;
    });
  }

  async ask(line: string): Promise<string> {
    this.socket.write(`${line}\n`);
    return await this.next();
  }

  /** The next line; `(closed)` once the guest has closed the connection. */
  async next(): Promise<string> {
    const deadline = Date.now() + ANSWER_PATIENCE_MS;
    for (;;) {
      const at = this.#received.indexOf('\n');
      if (at >= 0) {
        const line = this.#received.slice(0, at);
        this.#received = this.#received.slice(at + 1);
        return line;
      }
      if (this.#ended) return '(closed)';
      if (Date.now() > deadline) throw new Error('the guest did not answer');
      await sleep(5);
    }
  }
}

/** Whether a program is on PATH. */
export async function isOnPath(program: string): Promise<boolean> {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const found = await access(join(directory, program)).then(
      () => true,
      () => false,
    );
    if (found) return true;
  }
  return false;
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}
