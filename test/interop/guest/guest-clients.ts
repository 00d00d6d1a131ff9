/** Test help: clients of the guest's services, and what every guest must answer. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { get, type Agent, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestMachine } from './guest-machine.ts';

export const ANSWER_PATIENCE_MS = 15_000;

/** Each service of a freshly booted guest does what it promises. */
export async function checkServices(machine: GuestMachine): Promise<void> {
  const ledger = machine.client(7000);
  assert.equal(await ledger.ask('count'), 'count 0');
  assert.equal(await ledger.ask('append first line'), 'ok 1');
  assert.equal(await ledger.ask('read 1'), 'line first line');
  assert.equal(await machine.client(7).ask('echo me'), 'echo me');
  assert.match(await machine.client(7001).ask('hello'), /^session \S+ 1$/);
  assert.equal((await httpGet(machine.url('/'))).statusCode, 200);
  assert.match((await httpGet(machine.url('/clock'))).body, /^[1-9]\d*\.\d+\n$/);
  assert.equal(await udpEcho(machine.ports.get(7)!), 'datagram');
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

export interface Answer {
  readonly statusCode: number | undefined;
  readonly body: string;
  readonly connection: string | undefined;
  readonly localPort: number | undefined;
}

export async function httpGet(
  url: string,
  options: { readonly agent?: Agent; readonly headers?: Record<string, string> } = {},
): Promise<Answer> {
  const request = get(url, { ...options, timeout: 15_000 });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const { localPort } = response.socket;
  let body = '';
  for await (const chunk of response) body += (chunk as Buffer).toString('latin1');
  return { statusCode: response.statusCode, body, connection: response.headers.connection, localPort };
}

export async function udpEcho(port: number): Promise<string> {
  const socket = createSocket('udp4');
  try {
    socket.send('datagram', port, '127.0.0.1');
    const [data] = (await once(socket, 'message', { signal: AbortSignal.timeout(10_000) })) as [Buffer];
    return data.toString();
  } finally {
    socket.close();
  }
}
