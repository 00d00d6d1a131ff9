/**
 * What systemd is told of a daemon (sd_notify(3)): ready, how it is, that it is alive, that it ends. Node.js has no unix
 * datagrams, so the three system calls are made through koffi. Nothing here ever fails or waits: a daemon works without
 * whoever started it. Numbers: Linux, x86-64 and arm64 (asm-generic/socket.h, linux/net.h).
 */
import { loadLibrary } from '../base/c-library.ts';
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** struct sockaddr_un: sun_family, then sun_path. */
const FAMILY_BYTES = 2;
const MAX_PATH_BYTES = 107;

interface Calls {
  readonly socket: (domain: number, type: number, protocol: number) => number;
  readonly sendto: (
    fd: number,
    data: Uint8Array,
    length: number,
    flags: number,
    to: Uint8Array,
    toLength: number,
  ) => number;
  readonly close: (fd: number) => number;
}

export class ServiceManager {
  readonly #address: Buffer | null;
  readonly #watchdogMs: number | null;
  #calls: Calls | null | undefined;
  #watchdog: NodeJS.Timeout | null = null;

  /**
   * By NOTIFY_SOCKET and WATCHDOG_USEC, which are taken out of `env`: processes that the daemon starts are not the ones
   * that are asked. Without them nothing is told to nobody.
   */
  constructor(env: NodeJS.ProcessEnv = process.env, pid: number = process.pid) {
    this.#address = addressOf(env['NOTIFY_SOCKET'] ?? '');
    const microseconds = Number(env['WATCHDOG_USEC']);
    const isOurs = env['WATCHDOG_PID'] === undefined || Number(env['WATCHDOG_PID']) === pid;
    this.#watchdogMs = isOurs && microseconds > 0 ? microseconds / 1000 : null;
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) Reflect.deleteProperty(env, name);
  }

  /** The daemon serves. From now on the watchdog hears of it, twice in its time, as long as the event loop turns. */
  ready(status: string): void {
    this.#send(`READY=1\n${statusLine(status)}`);
    if (this.#watchdogMs === null || this.#watchdog !== null) return;
    this.#send('WATCHDOG=1');
    this.#watchdog = setInterval(() => this.#send('WATCHDOG=1'), this.#watchdogMs / 2);
    this.#watchdog.unref();
  }

  /** One line for `systemctl status`. */
  status(text: string): void {
    this.#send(statusLine(text));
  }

  stopping(): void {
    if (this.#watchdog !== null) clearInterval(this.#watchdog);
    this.#watchdog = null;
    this.#send('STOPPING=1');
  }

  #send(text: string): void {
    if (this.#address === null) return;
    this.#calls ??= this.#calls === undefined ? loadCalls() : null;
    if (!this.#calls) return;
    const { socket, sendto, close } = this.#calls;
    const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    const data = Buffer.from(text);
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    const sent = sendto(fd, data, data.length, flags, this.#address, this.#address.length);
    if (sent < 0) loggerFor('systemd').debug({ text }, 'the service manager did not take a message');
    close(fd);
  }
}

function statusLine(text: string): string {
  return `STATUS=${text.replace(/\s+/g, ' ')}`;
}

/** A path, or an abstract name after an '@'. Null: there is none, or it is none. */
function addressOf(name: string): Buffer | null {
  const path = Buffer.from(name.startsWith('@') ? `\0${name.slice(1)}` : name);
  if (!/^[/@]/.test(name) || path.length > MAX_PATH_BYTES) return null;
  const address = Buffer.alloc(FAMILY_BYTES + path.length + (name.startsWith('@') ? 0 : 1));
  address.writeUInt16LE(AF_UNIX, 0);
  path.copy(address, FAMILY_BYTES);
  return address;
}

function loadCalls(): Calls | null {
  try {
    const { library: libc } = loadLibrary('libc.so.6');
    return {
      socket: libc.func('int socket(int domain, int type, int protocol)') as Calls['socket'],
      sendto: libc.func(
        'long sendto(int fd, const void *data, size_t length, int flags, const void *to, unsigned int toLength)',
      ) as Calls['sendto'],
      close: libc.func('int close(int fd)') as Calls['close'],
    };
  } catch (error) {
    loggerFor('systemd').warn({ reason: messageOf(error) }, 'the service manager cannot be told anything');
    return null;
  }
}
