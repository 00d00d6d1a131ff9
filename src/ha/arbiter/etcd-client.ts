/**
 * What the etcd arbiter needs of etcd v3, over its JSON gateway (etcd's "gRPC gateway" page: /v3/kv/range, /v3/kv/txn,
 * /v3/auth/authenticate, /v3/cluster/member/list; keys and values in base64, 64-bit numbers as strings). Several
 * endpoints, one after the other; each attempt and the whole have deadlines; nothing read is believed before it has been
 * checked. node:https, since Node's fetch takes no CA and no client certificate.
 */
import { setMaxListeners } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { z } from 'zod';
import { abortAfter } from '../../base/async.ts';
import { ParameterError, messageOf } from '../../base/errors.ts';
import { ArbiterUnreachableError } from './arbiter.ts';

/** One endpoint's time, before the next is asked; longer where none has answered in it. */
const ATTEMPT_MS = 700;
/** All of them together. */
const CALL_DEADLINE_MS = 4_000;
/** The longest that an endpoint gets: a connection that has to be opened, and answers that are two seconds late each. */
const MAX_ATTEMPT_MS = 6_000;
/** Pause when all have been asked in vain. */
const ROUND_MS = 100;
const MAX_ANSWER_BYTES = 256 * 1024;
/** A connection that only listens is probed after so long a silence. */
const FOLLOW_PROBE_MS = 5_000;
const MAX_ENDPOINTS = 16;
const MAX_SOCKETS = 16;
/** Calls at a time; what is more waits for a socket, and whoever has that many waiting has to be told. */
const MAX_CALLS = 1_024;

export interface EtcdOptions {
  /** `http://host:2379` or `https://…`. */
  readonly endpoints: readonly string[];
  /** PEM. */
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly user?: string;
  readonly password?: string;
  /** Before every key. */
  readonly prefix?: string;
  readonly attemptMs?: number;
  readonly deadlineMs?: number;
  /** For whoever reads many keys at once. */
  readonly maxAnswerBytes?: number;
}

/** etcd said no; `code` is gRPC's. */
export class EtcdRefusedError extends ArbiterUnreachableError {
  readonly code: number;
  constructor(message: string, code: number, mayHaveHappened: boolean) {
    super(message, mayHaveHappened);
    this.code = code;
  }
}

const INVALID_ARGUMENT = 3;
const PERMISSION_DENIED = 7;
const FAILED_PRECONDITION = 9;
const UNAUTHENTICATED = 16;

const refusal = z.object({ code: z.int(), message: z.string().optional(), error: z.string().optional() });
const token = z.object({ token: z.string().min(1).max(4096) });

export class EtcdClient {
  readonly #urls: readonly URL[];
  readonly #options: EtcdOptions;
  readonly #agent: http.Agent;
  readonly #closing = new AbortController();
  #calls = 0;
  #token: string | null = null;
  /** The endpoint that answered last; at first any, so that many clients do not all ask the same one. */
  #first: number;
  /** An etcd that is slow would be asked anew again and again, and never be heard, if each try ended before its answer. */
  #patienceMs: number;

  constructor(options: EtcdOptions) {
    setMaxListeners(MAX_CALLS + 1, this.#closing.signal);
    if (options.endpoints.length < 1 || options.endpoints.length > MAX_ENDPOINTS) {
      throw new ParameterError(`etcd: 1 to ${MAX_ENDPOINTS} endpoints are needed`);
    }
    this.#urls = options.endpoints.map(endpointUrl);
    const isSecure = this.#urls[0]!.protocol === 'https:';
    if (this.#urls.some(({ protocol }) => (protocol === 'https:') !== isSecure)) {
      throw new ParameterError('etcd: endpoints with and without TLS do not go together');
    }
    if ((options.user === undefined) !== (options.password === undefined)) {
      throw new ParameterError('etcd: a user and a password go together');
    }
    if ((options.cert === undefined) !== (options.key === undefined)) {
      throw new ParameterError('etcd: a certificate and its key go together');
    }
    this.#options = options;
    this.#patienceMs = this.#attemptMs;
    // One listener a call that is under way.
    setMaxListeners(0, this.#closing.signal);
    this.#first = Math.floor(Math.random() * this.#urls.length);
    const { ca, cert, key } = options;
    this.#agent = isSecure
      ? new https.Agent({ keepAlive: true, maxSockets: MAX_SOCKETS, ca, cert, key, minVersion: 'TLSv1.2' })
      : new http.Agent({ keepAlive: true, maxSockets: MAX_SOCKETS });
  }

  get deadlineMs(): number {
    return this.#options.deadlineMs ?? CALL_DEADLINE_MS;
  }

  close(): void {
    this.#closing.abort();
    this.#agent.destroy();
  }

  /**
   * Posts until an endpoint has answered, or throws ArbiterUnreachableError. For a request that changes something, this
   * may carry it out twice: it must be one that does the same again.
   */
  async post<T>(path: string, body: unknown, schema: z.ZodType<T>): Promise<T> {
    if (this.#calls >= MAX_CALLS) {
      throw new ArbiterUnreachableError('etcd: too many calls wait already', false);
    }
    this.#calls++;
    try {
      return await this.#postUntil(path, body, schema);
    } finally {
      this.#calls--;
    }
  }

  async #postUntil<T>(path: string, body: unknown, schema: z.ZodType<T>): Promise<T> {
    const began = performance.now();
    const until = began + Math.max(this.deadlineMs, this.#patienceMs);
    let mayHaveHappened = false;
    let last = 'no time left';
    const first = this.#first;
    /** The longest of this round that has ended without an answer. */
    let lateMs = 0;
    for (let attempt = 0; ; attempt++) {
      const asked = performance.now();
      const left = until - asked;
      if (this.#closing.signal.aborted) throw new ArbiterUnreachableError('etcd: closed', mayHaveHappened);
      if (left <= 0) break;
      const at = (first + attempt) % this.#urls.length;
      const url = this.#urls[at]!;
      const ms = Math.min(left, this.#patienceMs);
      try {
        const answer = await this.#attempt(url, path, body, schema, ms);
        this.#first = at;
        if (performance.now() - asked < this.#attemptMs) this.#patienceMs = this.#attemptMs;
        return answer;
      } catch (error) {
        if (error instanceof EtcdRefusedError) this.#mayGoOn(error, mayHaveHappened);
        mayHaveHappened ||= !(error instanceof ArbiterUnreachableError) || error.mayHaveHappened;
        last = messageOf(error);
        // Timers may be early by a millisecond.
        if (performance.now() - asked > ms - 2) lateMs = Math.max(lateMs, ms);
        // There may be no time left in this call for the others.
        if (this.#first === at) this.#first = (at + 1) % this.#urls.length;
      }
      if ((attempt + 1) % this.#urls.length !== 0) continue;
      this.#waitedInVain(lateMs);
      lateMs = 0;
      await this.#pause(until);
    }
    this.#waitedInVain(lateMs);
    const all = this.#urls.map(({ host }) => host).join(', ');
    throw new ArbiterUnreachableError(
      `etcd at ${all}: no answer within ${Math.round(until - began)} ms (${last}); has it lost its majority?`,
      mayHaveHappened,
    );
  }

  /**
   * Posts to one endpoint what is answered without end (a watch): each line's JSON, until the connection ends or `signal`
   * says so. Then another endpoint is the first to be asked. Throws ArbiterUnreachableError.
   */
  async follow(
    path: string,
    body: unknown,
    onLine: (value: unknown) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const url = this.#urls[this.#first % this.#urls.length]!;
    const login = abortAfter(this.#patienceMs, [this.#closing.signal, signal]);
    const ends = abortAfter(Infinity, [this.#closing.signal, signal]);
    try {
      await this.#login(url, login.signal);
      const text = JSON.stringify(body);
      const lines = { onLine, maxBytes: this.#maxAnswerBytes };
      await followLines(new URL(path, url), text, this.#headers(text), this.#agent, ends.signal, lines);
    } catch (error) {
      this.#token = null;
      throw error;
    } finally {
      login.end();
      ends.end();
      this.#first = (this.#first + 1) % this.#urls.length;
    }
  }

  get #maxAnswerBytes(): number {
    return this.#options.maxAnswerBytes ?? MAX_ANSWER_BYTES;
  }

  get #attemptMs(): number {
    return this.#options.attemptMs ?? ATTEMPT_MS;
  }

  get #maxAttemptMs(): number {
    const { deadlineMs } = this.#options;
    return Math.max(this.#attemptMs, Math.min(MAX_ATTEMPT_MS, deadlineMs ?? Infinity));
  }

  #waitedInVain(ms: number): void {
    this.#patienceMs = Math.max(this.#patienceMs, Math.min(ms * 2, this.#maxAttemptMs));
  }

  /** What another endpoint, or another try, would not answer otherwise is thrown. */
  #mayGoOn(error: EtcdRefusedError, mayHaveHappened: boolean): void {
    if (error.code === UNAUTHENTICATED || /invalid auth token|auth revision/.test(error.message)) {
      this.#token = null;
    } else if ([INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION].includes(error.code)) {
      throw mayHaveHappened ? new EtcdRefusedError(error.message, error.code, true) : error;
    }
  }

  async #attempt<T>(url: URL, path: string, body: unknown, schema: z.ZodType<T>, ms: number): Promise<T> {
    const deadline = abortAfter(ms, [this.#closing.signal]);
    try {
      await this.#login(url, deadline.signal);
      return await this.#request(url, path, body, schema, deadline.signal);
    } finally {
      deadline.end();
    }
  }

  async #login(url: URL, signal: AbortSignal): Promise<void> {
    const { user, password } = this.#options;
    if (user === undefined || this.#token !== null) return;
    const login = { name: user, password };
    // Whatever becomes of this, the request itself has not been sent.
    this.#token = await this.#request(url, '/v3/auth/authenticate', login, token, signal).then(
      (answer) => answer.token,
      (error: unknown) => {
        if (error instanceof EtcdRefusedError) throw error;
        throw new ArbiterUnreachableError(messageOf(error), false, { cause: error });
      },
    );
  }

  #headers(text: string): Record<string, string | number> {
    const headers: Record<string, string | number> = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
    };
    if (this.#token !== null) headers['authorization'] = this.#token;
    return headers;
  }

  async #request<T>(
    url: URL,
    path: string,
    body: unknown,
    schema: z.ZodType<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const text = JSON.stringify(body);
    const at = new URL(path, url);
    const { status, answer } = await exchange(
      at,
      text,
      this.#headers(text),
      this.#agent,
      signal,
      this.#maxAnswerBytes,
    );
    let value: unknown;
    try {
      value = JSON.parse(answer);
    } catch (error) {
      throw new ArbiterUnreachableError(`etcd at ${url.host}: its answer is not JSON`, true, {
        cause: error,
      });
    }
    if (status !== 200) {
      const said = refusal.safeParse(value);
      const why = said.success ? (said.data.message ?? said.data.error ?? '') : answer.slice(0, 200);
      const code = said.success ? said.data.code : -1;
      const isFinal = [INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED].includes(
        code,
      );
      throw new EtcdRefusedError(`etcd at ${url.host} refuses: ${why} (${status})`, code, !isFinal);
    }
    const checked = schema.safeParse(value);
    if (checked.success) return checked.data;
    throw new ArbiterUnreachableError(
      `etcd at ${url.host}: an answer that is not etcd's: ${z.prettifyError(checked.error)}`,
      true,
    );
  }

  async #pause(until: number): Promise<void> {
    const ms = Math.min(ROUND_MS, until - performance.now());
    if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
  }
}

function endpointUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url || !['http:', 'https:'].includes(url.protocol) || url.pathname !== '/' || url.username !== '') {
    throw new ParameterError(`etcd: '${text}' is no endpoint; write http://HOST:2379 or https://HOST:2379`);
  }
  return url;
}

/** One HTTP exchange. Its error says whether the request can have arrived. */
function exchange(
  url: URL,
  text: string,
  headers: http.OutgoingHttpHeaders,
  agent: http.Agent,
  signal: AbortSignal,
  maxBytes: number,
): Promise<{ status: number; answer: string }> {
  return new Promise((resolve, reject) => {
    let isConnected = false;
    const fail = (error: unknown): void => {
      const why = signal.aborted ? 'no answer in time' : messageOf(error);
      reject(new ArbiterUnreachableError(`etcd at ${url.host}: ${why}`, isConnected, { cause: error }));
    };
    const start = url.protocol === 'https:' ? https.request : http.request;
    const request = start(url, { method: 'POST', headers, agent, signal }, (response) => {
      const pieces: Buffer[] = [];
      let bytes = 0;
      response.on('data', (piece: Buffer) => {
        bytes += piece.length;
        if (bytes > maxBytes) request.destroy(new Error('its answer is too long'));
        else pieces.push(piece);
      });
      response.on('error', fail);
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, answer: Buffer.concat(pieces).toString() }),
      );
    });
    request.on('socket', (socket) => {
      if (request.reusedSocket || !socket.connecting) isConnected = true;
      else socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', () => (isConnected = true));
    });
    request.on('error', fail);
    request.end(text);
  });
}

/** An answer that goes on: one JSON value a line. Resolves when the peer ends it. */
function followLines(
  url: URL,
  text: string,
  headers: http.OutgoingHttpHeaders,
  agent: http.Agent,
  signal: AbortSignal,
  lines: { readonly onLine: (value: unknown) => void; readonly maxBytes: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void =>
      reject(
        new ArbiterUnreachableError(`etcd at ${url.host}: ${messageOf(error)}`, false, { cause: error }),
      );
    const start = url.protocol === 'https:' ? https.request : http.request;
    const request = start(url, { method: 'POST', headers, agent, signal }, (response) => {
      if (response.statusCode !== 200) request.destroy(new Error(`it refuses (${response.statusCode ?? 0})`));
      let rest = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => {
        const found = (rest + piece).split('\n');
        rest = found.pop() ?? '';
        try {
          if (rest.length > lines.maxBytes) throw new Error('a line of its answer is too long');
          for (const line of found) if (line !== '') lines.onLine(JSON.parse(line));
        } catch (error) {
          request.destroy(error instanceof Error ? error : new Error(String(error)));
        }
      });
      response.on('error', fail);
      response.on('end', resolve);
      response.on('close', resolve);
    });
    // A peer that is gone without a word would be listened to for ever.
    request.on('socket', (socket) => socket.setKeepAlive(true, FOLLOW_PROBE_MS));
    request.on('error', fail);
    request.end(text);
  });
}
