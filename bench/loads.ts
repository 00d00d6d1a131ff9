/**
 * Clients that put a known load on the test guest's services (docs/guest.md): HTTP on kept and on new connections,
 * typing at a line service, and a stream in each direction. Each resolves with what it measured, and throws when an
 * answer is wrong or does not come. Used by the benchmark of checkpoints and by its smoke test.
 */
import { createServer } from 'node:http';
import net from 'node:net';
import { once } from 'node:events';
import { Deferred, withDeadline } from '../src/base/async.ts';
import { ColoError } from '../src/base/errors.ts';
import { LineConnection } from '../src/demo/line-connection.ts';

/** One answer; generous, as a pair may stand still for a few checkpoints. */
const PATIENCE_MS = 60_000;
const STREAM_PATIENCE_MS = 180_000;
const WRITE_PIECE = 64 * 1024;

/** Where a service of the guest is reached. */
export interface GuestPort {
  readonly host: string;
  readonly port: number;
}

export interface Load {
  readonly requests: number;
  readonly bytes: number;
  readonly seconds: number;
  /** Of each request, in milliseconds, as they ended. */
  readonly latenciesMs: readonly number[];
}

/** The same bytes every time; and a page that shows the guest's uptime in seconds, as many servers show the date. */
export const SAME_BODY = '/bytes/200';
export const BODY_WITH_TIME = '/';
/** Random bits, which are the same as long as both copies draw them in one order. */
export const RANDOM_BODY = '/random';
/** Nanoseconds, never the same on both copies: what every answer costs when all of them differ. */
export const DIFFERENT_BODY = '/clock';

/** `requests` in all, shared by `connections` connections that stay open. */
export async function httpKeepAlive(
  at: GuestPort,
  requests: number,
  connections: number,
  page = SAME_BODY,
): Promise<Load> {
  const latenciesMs: number[] = [];
  const began = performance.now();
  let left = requests;
  let bytes = 0;
  const client = async (): Promise<void> => {
    const http = await HttpConnection.open(at);
    while (left-- > 0) {
      const asked = performance.now();
      bytes += await http.get(page);
      latenciesMs.push(performance.now() - asked);
    }
    http.close();
  };
  await Promise.all(Array.from({ length: connections }, client));
  return { requests, bytes, seconds: (performance.now() - began) / 1000, latenciesMs };
}

/** Each request on a connection of its own, one after the other; the guest closes it. Connecting is measured too. */
export async function httpNew(at: GuestPort, requests: number): Promise<Load> {
  const latenciesMs: number[] = [];
  const began = performance.now();
  let bytes = 0;
  for (let sent = 0; sent < requests; sent++) {
    const asked = performance.now();
    const http = await HttpConnection.open(at);
    bytes += await http.get(SAME_BODY, 'close');
    await http.ended();
    latenciesMs.push(performance.now() - asked);
  }
  return { requests, bytes, seconds: (performance.now() - began) / 1000, latenciesMs };
}

/** Short lines at a person's pace, 10 to 30 ms apart; a line waits for its answer only as long as its pause is. */
export async function typing(at: GuestPort, keystrokes: number): Promise<Load> {
  const latenciesMs: number[] = [];
  const began = performance.now();
  const line = await LineConnection.open(at.host, at.port, PATIENCE_MS);
  const answers: Promise<void>[] = [];
  for (let sent = 0; sent < keystrokes; sent++) {
    const asked = performance.now();
    const answer = line.request('k', PATIENCE_MS).then((text) => {
      if (!text.startsWith('session ')) throw new ColoError(`session: unexpected answer '${text}'`);
      latenciesMs.push(performance.now() - asked);
    });
    answer.catch(() => undefined); // asked for below
    answers.push(answer);
    await new Promise((resolve) => setTimeout(resolve, 10 + (sent % 5) * 5));
  }
  await Promise.all(answers);
  line.close();
  return { requests: keystrokes, bytes: 0, seconds: (performance.now() - began) / 1000, latenciesMs };
}

/** One answer of `bytes` bytes. */
export async function download(at: GuestPort, bytes: number): Promise<Load> {
  const began = performance.now();
  const http = await HttpConnection.open(at);
  await http.get(`/bytes/${bytes}`, 'close', STREAM_PATIENCE_MS);
  const ms = performance.now() - began;
  return { requests: 1, bytes, seconds: ms / 1000, latenciesMs: [ms] };
}

/** `bytes` bytes to the discard service, which closes when it has read the last. */
export async function upload(at: GuestPort, bytes: number): Promise<Load> {
  const began = performance.now();
  const socket = await connect(at);
  const ended = once(socket, 'end');
  ended.catch(() => undefined); // waited for below
  socket.resume();
  const piece = Buffer.alloc(WRITE_PIECE, 'upload ');
  for (let left = bytes; left > 0; left -= piece.length) {
    if (socket.write(piece.subarray(0, Math.min(left, piece.length)))) continue;
    await withDeadline(once(socket, 'drain'), STREAM_PATIENCE_MS, 'the guest to read');
  }
  socket.end();
  await withDeadline(ended, STREAM_PATIENCE_MS, 'the guest to close');
  socket.destroy();
  const ms = performance.now() - began;
  return { requests: 1, bytes, seconds: ms / 1000, latenciesMs: [ms] };
}

/**
 * Runs a command `times` times in the guest's shell, and waits until it says so on the network. Typing reaches only the
 * copy whose console this is: the shell waits a moment first, in which `settle` takes the checkpoint that gives the
 * command to both. In `command`, `$HOST` is a small web page of this process.
 */
export async function guestRuns(
  serialPath: string,
  command: string,
  times: number,
  settle: () => Promise<void>,
): Promise<Load> {
  const done = new Deferred<void>();
  let bytes = 0;
  const host = createServer((request, response) => {
    if (request.url === '/done') done.resolve();
    bytes += 200;
    response.end('x'.repeat(200));
  });
  await once(host.listen(0), 'listening');
  const { port } = host.address() as net.AddressInfo;
  const serial = net.connect(serialPath).resume();
  serial.on('error', () => undefined);
  try {
    serial.write(`\nHOST=http://10.0.2.2:${port}; sleep 3\n`);
    serial.write(`i=0; while [ $i -lt ${times} ]; do ${command}; i=$((i+1)); done; wget -qO- $HOST/done\n`);
    await settle();
    const began = performance.now();
    await withDeadline(done.promise, STREAM_PATIENCE_MS, `the guest to run '${command}'`);
    return { requests: times, bytes, seconds: (performance.now() - began) / 1000, latenciesMs: [] };
  } finally {
    serial.destroy();
    host.close();
    host.closeAllConnections();
  }
}

/** One request at a time; understands what the guest's service answers, no more. */
class HttpConnection {
  readonly #socket: net.Socket;
  readonly #ended: Promise<unknown>;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    this.#ended = once(socket, 'end');
    this.#ended.catch(() => undefined);
  }

  static async open(at: GuestPort): Promise<HttpConnection> {
    return new HttpConnection(await connect(at));
  }

  /** Resolves with the length of the body. */
  async get(path: string, connection = 'keep-alive', patienceMs = PATIENCE_MS): Promise<number> {
    const answered = this.#answer();
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: guest\r\nConnection: ${connection}\r\n\r\n`);
    return withDeadline(answered, patienceMs, `GET ${path}`);
  }

  async ended(): Promise<void> {
    await withDeadline(this.#ended, PATIENCE_MS, 'the guest to close');
    this.#socket.destroy();
  }

  close(): void {
    this.#socket.destroy();
  }

  #answer(): Promise<number> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      let head = '';
      let length = -1;
      let got = 0;
      const settle = (act: () => void): void => {
        socket.off('data', onData).off('error', onError).off('close', onClose);
        act();
      };
      const onError = (cause: Error): void => settle(() => reject(cause));
      const onClose = (): void => settle(() => reject(new ColoError('the guest closed before its answer')));
      const onData = (chunk: Buffer): void => {
        if (length < 0) {
          head += chunk.toString('latin1');
          const at = head.indexOf('\r\n\r\n');
          if (at < 0) return;
          if (!head.startsWith('HTTP/1.1 200 ')) {
            settle(() => reject(new ColoError(`unexpected answer: ${head.slice(0, 80)}`)));
            return;
          }
          length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
          got = head.length - at - 4;
        } else {
          got += chunk.length;
        }
        if (got >= length) settle(() => resolve(length));
      };
      socket.on('data', onData).on('error', onError).on('close', onClose);
    });
  }
}

async function connect(at: GuestPort): Promise<net.Socket> {
  const socket = net.connect({ ...at, noDelay: true, allowHalfOpen: true });
  socket.on('error', () => undefined); // its 'close' is what the waiting sees
  await withDeadline(once(socket, 'connect'), PATIENCE_MS, `port ${at.port}`);
  return socket;
}
