/**
 * Test help: a guest image on stock QEMU with its services forwarded to loopback ports.
 *
 * It runs QEMU as an ordinary child process; our own engines are not involved.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { access, copyFile, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildGuest } from '../../../src/guest/build.ts';
import { ANSWER_PATIENCE_MS, LineClient } from './guest-clients.ts';

export const TEST_CACHE = join(tmpdir(), `colo-ft-test-cache-${userInfo().uid}`);
const READY = 'colo-guest: ready';
const BOOT_PATIENCE_MS = 120_000;
/** The guest's TCP ports; 7 is forwarded for UDP as well, on the same host port. */
const PORTS = [80, 7, 7000, 7001] as const;
export type GuestPort = (typeof PORTS)[number];

export type GuestArch = 'i386' | 'amd64';
/** What runs each kind of guest here, and the image that a run of all tests has built already. */
const QEMU: Readonly<Record<GuestArch, string>> = {
  i386: 'qemu-system-i386',
  amd64: 'qemu-system-x86_64',
};
const BUILT: Readonly<Record<GuestArch, string | undefined>> = {
  i386: process.env['COLO_GUEST_IMAGE'],
  amd64: process.env['COLO_GUEST_IMAGE_AMD64'],
};

export interface MachineOptions {
  readonly arch: GuestArch;
  readonly image: string;
  readonly nic: string;
  readonly memoryMiB?: number;
  /** Extra QEMU arguments; `-drive` is ours. */
  readonly args?: readonly string[];
  /** As in `-drive if=`; a disk with `none` has the id disk0. */
  readonly diskInterface?: string;
  /** Options of `-nic user`, and the address in it that ports are forwarded to. */
  readonly net?: string;
  readonly address?: string;
}

export class GuestMachine {
  readonly ports: ReadonlyMap<GuestPort, number>;
  readonly #child: ChildProcess;
  readonly #monitor: string;
  #console = '';

  private constructor(child: ChildProcess, ports: ReadonlyMap<GuestPort, number>, monitor: string) {
    this.#child = child;
    this.#monitor = monitor;
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
    const format = options.image.endsWith('.raw') ? 'raw' : 'qcow2';
    const drive = `file=${options.image},format=${format},id=disk0,if=${options.diskInterface ?? 'ide'}`;
    const monitor = `${options.image}.monitor`;
    const child = spawn(
      QEMU[options.arch],
      [
        ...['-m', String(options.memoryMiB ?? 128), '-accel', 'tcg', '-drive', drive, '-nic', nic.join(',')],
        ...['-display', 'none', '-serial', 'stdio', '-monitor', `unix:${monitor},server=on,wait=off`],
        ...['-no-reboot', ...(options.args ?? [])],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    const machine = new GuestMachine(child, ports, monitor);
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

  /** Presses the ACPI power button. */
  pressPowerButton(): void {
    connect(this.#monitor).end('system_powerdown\n');
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

/** A folder with a guest image in it, and machines that boot copies of that. */
export class GuestLab {
  readonly directory: string;
  readonly arch: GuestArch;
  readonly #image: string;

  private constructor(directory: string, arch: GuestArch, image: string) {
    this.directory = directory;
    this.arch = arch;
    this.#image = image;
  }

  /** Why there cannot be one here, or false. */
  static async whyNot(arch: GuestArch): Promise<string | false> {
    if (!(await isOnPath(QEMU[arch]))) return `no ${QEMU[arch]}`;
    return BUILT[arch] !== undefined || (await isOnPath('apt-get')) ? false : 'no apt-get';
  }

  static async open(arch: GuestArch): Promise<GuestLab> {
    const directory = await mkdtemp(join(tmpdir(), 'colo-boot-'));
    const built = BUILT[arch];
    const image = built ?? join(directory, 'guest.raw');
    if (built === undefined) await buildGuest({ arch, output: image, cacheDir: TEST_CACHE });
    return new GuestLab(directory, arch, image);
  }

  /** A fresh copy of the image under the name `name`. */
  async copy(name: string): Promise<string> {
    const path = join(this.directory, `${name}.raw`);
    await copyFile(this.#image, path);
    return path;
  }

  /** Runs `body` against a guest booted from a fresh copy of the image. */
  async withGuest(
    options: Omit<MachineOptions, 'arch' | 'image'>,
    body: (machine: GuestMachine) => Promise<void>,
  ): Promise<void> {
    const image = await this.copy('run');
    const machine = await GuestMachine.boot({ ...options, arch: this.arch, image });
    try {
      await body(machine);
    } finally {
      await machine.kill();
    }
  }

  async close(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
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
