/**
 * Requests to a host's daemon, over its unix socket or over TCP (with TLS: its certificate is checked against the CA and
 * against the host that was asked for).
 *
 * One connection a call, so that a call is never sent on a connection that has just died; a call is sent again only when
 * nothing of it can have arrived. A call may take as long as the daemon works on it: what ends the wait is a daemon of
 * which nothing is heard any more, not even that it is still at it. Answers are bounded and checked like requests.
 */
import http from 'node:http';
import https from 'node:https';
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { checkServerIdentity, type ConnectionOptions } from 'node:tls';
import { Agent, request, type Dispatcher } from 'undici';
import type { z } from 'zod';
import { ProtocolError } from '../base/errors.ts';
import { TLS_MIN_VERSION } from '../base/tls/credentials.ts';
import { hostAndPort, textOfNodeAddress, type NodeAddress } from './address.ts';
import { hasSentNothing, translateFailure } from './client-failures.ts';
import { errorFromWire } from './errors.ts';
import { read } from './schemas.ts';
import { API_VERSION, type CallOptions } from './service.ts';
import { parseLine, readLines, STREAM_SILENCE_MS, wireErrorIn } from './stream.ts';
import type { TlsMaterial } from './tls.ts';

/** For a connection, its TLS handshake included. */
export const CONNECT_MS = 5_000;
/** The longest answer that is read. */
export const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** Before each further try to reach a daemon that nothing was sent to. */
const RETRY_MS = [100, 400] as const;

export interface NodeClientOptions {
  readonly tls?: TlsMaterial;
  /** Ends every call of this client. */
  readonly signal?: AbortSignal;
  /** The call was sent on by another daemon: this one is to do it itself. */
  readonly isForwarded?: boolean;
  /** False: an address where nobody listens is told at once. */
  readonly isPatient?: boolean;
}

export class ClientTransport {
  readonly #address: NodeAddress;
  readonly #where: string;
  readonly #options: NodeClientOptions;
  readonly #agent: Agent;
  readonly #origin: string;

  constructor(address: NodeAddress, options: NodeClientOptions) {
    this.#address = address;
    this.#where = textOfNodeAddress(address);
    this.#options = options;
    const { tls } = options;
    const isTls = tls !== undefined && 'host' in this.#address;
    this.#origin =
      'host' in this.#address
        ? `${isTls ? 'https' : 'http'}://${hostAndPort(this.#address.host, this.#address.port)}`
        : 'http://localhost';
    this.#agent = new Agent({
      connect: {
        timeout: CONNECT_MS,
        keepAlive: true,
        keepAliveInitialDelay: STREAM_SILENCE_MS,
        ...('path' in this.#address && { socketPath: this.#address.path }),
        ...(isTls && tlsOptions(tls, this.#address.host)),
      },
      pipelining: 0,
      headersTimeout: STREAM_SILENCE_MS,
      bodyTimeout: STREAM_SILENCE_MS,
    });
  }

  /** Calls under way end. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async call<T>(
    method: 'GET' | 'POST' | 'PUT',
    path: string,
    body: object | null,
    schema: z.ZodType<T>,
    call: CallOptions = {},
  ): Promise<T> {
    const { signal, release } = eitherOf(this.#options.signal, call.signal);
    const once = async (): Promise<T> => {
      const answer = await this.#request(method, path, body, signal);
      const value = await this.#json(answer);
      const error = wireErrorIn(value);
      if (error) throw errorFromWire(error);
      if (answer.statusCode !== 200) throw new ProtocolError(`${this.#where}: status ${answer.statusCode}`);
      return this.read(schema, (value as { result?: unknown } | null)?.result);
    };
    try {
      return await this.#trying(once, signal);
    } finally {
      release();
    }
  }

  /** Objects of a stream. Ends by itself when `own` aborts. */
  async *lines(path: string, own: AbortSignal | undefined): AsyncGenerator {
    const { signal, release } = eitherOf(this.#options.signal, own);
    let answer: Dispatcher.ResponseData | null = null;
    try {
      answer = await this.#trying(() => this.#begin(path, signal), signal);
      for await (const line of readLines(answer.body)) {
        const { value, error } = parseLine(line);
        if (error) throw errorFromWire(error);
        yield value;
      }
    } catch (error) {
      // Whoever asked has had enough: that is how a followed stream ends.
      if (!signal?.aborted) throw translateFailure(error, this.#where, signal);
    } finally {
      release();
      // What is left of the answer is not wanted; the error is ours then.
      answer?.body.on('error', () => undefined).destroy();
    }
  }

  async #begin(path: string, signal: AbortSignal | undefined): Promise<Dispatcher.ResponseData> {
    const begun = await this.#request('GET', path, null, signal);
    if (begun.statusCode === 200) return begun;
    const error = wireErrorIn(await this.#json(begun));
    throw error ? errorFromWire(error) : new ProtocolError(`${this.#where}: status ${begun.statusCode}`);
  }

  #request(
    method: 'GET' | 'POST' | 'PUT',
    path: string,
    body: object | null,
    signal: AbortSignal | undefined,
  ): Promise<Dispatcher.ResponseData> {
    return request(`${this.#origin}${path}`, {
      method,
      dispatcher: this.#agent,
      headers: {
        ...this.#headers(),
        ...(body && { 'content-type': 'application/json' }),
      },
      ...(body && { body: JSON.stringify({ version: API_VERSION, ...body }) }),
      ...(signal && { signal }),
    });
  }

  #headers(): Record<string, string> {
    return {
      accept: 'application/json, application/x-ndjson',
      ...(this.#options.isForwarded && { 'colo-forwarded': '1' }),
    };
  }

  async #json(answer: Dispatcher.ResponseData): Promise<unknown> {
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > MAX_ANSWER_BYTES) {
        throw new ProtocolError(`${this.#where}: an answer of more than ${MAX_ANSWER_BYTES} bytes`);
      }
      chunks.push(chunk);
    }
    try {
      return JSON.parse(Buffer.concat(chunks).toString('utf8'));
    } catch (cause) {
      const what = `status ${answer.statusCode} and an answer that is not JSON: is that a colo node?`;
      throw new ProtocolError(`${this.#where}: ${what}`, { cause });
    }
  }

  /** Whatever fails becomes a ColoError. Tried again only while nothing was sent. */
  async #trying<T>(once: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    for (let tries = 0; ; tries++) {
      try {
        return await once();
      } catch (error) {
        const pauseMs = this.#options.isPatient === false ? undefined : RETRY_MS[tries];
        if (pauseMs === undefined || !hasSentNothing(error) || signal?.aborted) {
          throw translateFailure(error, this.#where, signal);
        }
        await delay(pauseMs, undefined, signal && { signal }).catch(() => undefined); // told by the next try
      }
    }
  }

  read<T>(schema: z.ZodType<T>, value: unknown): T {
    try {
      return read(schema, value, 'the answer');
    } catch (cause) {
      throw new ProtocolError(`${this.#where}: ${(cause as Error).message}`, { cause });
    }
  }

  /** A stream of bytes, by the protocol's name in `Upgrade`. */
  upgrade(path: string, protocol: string): Promise<Duplex> {
    const { signal } = this.#options;
    return this.#trying(() => this.#upgrade(path, protocol, signal), signal);
  }

  #upgrade(path: string, protocol: string, signal: AbortSignal | undefined): Promise<Duplex> {
    const address = this.#address;
    const { tls } = this.#options;
    const headers = { ...this.#headers(), connection: 'Upgrade', upgrade: protocol };
    const options = { path, headers, agent: false as const, ...(signal && { signal }) };
    let asking: http.ClientRequest;
    if ('path' in address) asking = http.request({ ...options, socketPath: address.path });
    else if (tls) asking = https.request({ ...options, ...address, ...tlsOptions(tls, address.host) });
    else asking = http.request({ ...options, ...address });
    return new Promise((resolve, reject) => {
      asking.setTimeout(STREAM_SILENCE_MS, () => asking.destroy(silence()));
      asking.once('error', reject);
      asking.once('upgrade', (_answer, socket, head) => {
        socket.setTimeout(0);
        if (head.length > 0) socket.unshift(head);
        resolve(socket);
      });
      asking.once('response', (answer) => {
        void readRefusal(answer, this.#where).then(reject, reject);
      });
      asking.end();
    });
  }
}

type TlsClientOptions = Pick<
  ConnectionOptions,
  'ca' | 'cert' | 'key' | 'minVersion' | 'rejectUnauthorized' | 'checkServerIdentity'
>;

/** A signal that aborts with the first of two. (AbortSignal.any's may be collected before it aborts, Node 20.) */
function eitherOf(
  first: AbortSignal | undefined,
  second: AbortSignal | undefined,
): { readonly signal: AbortSignal | undefined; readonly release: () => void } {
  if (!first || !second) return { signal: first ?? second, release: () => undefined };
  const both = new AbortController();
  const onFirst = (): void => both.abort(first.reason);
  const onSecond = (): void => both.abort(second.reason);
  if (first.aborted) onFirst();
  else if (second.aborted) onSecond();
  first.addEventListener('abort', onFirst, { once: true });
  second.addEventListener('abort', onSecond, { once: true });
  return {
    signal: both.signal,
    release: () => {
      first.removeEventListener('abort', onFirst);
      second.removeEventListener('abort', onSecond);
    },
  };
}

function silence(): Error {
  return Object.assign(new Error('no answer'), { code: 'UND_ERR_HEADERS_TIMEOUT' });
}

/** Longer ones are not read to their end. */
const MAX_REFUSAL_BYTES = 65_536;

async function readRefusal(answer: http.IncomingMessage, where: string): Promise<Error> {
  let text = '';
  for await (const chunk of answer.setEncoding('utf8') as AsyncIterable<string>) {
    text += chunk;
    if (text.length > MAX_REFUSAL_BYTES) break;
  }
  try {
    const error = wireErrorIn(JSON.parse(text));
    if (error) return errorFromWire(error);
  } catch {
    // said below
  }
  return new ProtocolError(`${where}: status ${answer.statusCode ?? 0} instead of a stream`);
}

function tlsOptions(tls: TlsMaterial, host: string): TlsClientOptions {
  return {
    ...tls,
    minVersion: TLS_MIN_VERSION,
    rejectUnauthorized: true,
    // Server names on the wire are names, never addresses (RFC 6066); what is checked is the host that was asked for.
    checkServerIdentity: (_name, certificate) => checkServerIdentity(host, certificate),
  };
}
