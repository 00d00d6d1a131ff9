/** Speaks to a dashboard's server as its page does: what it shows by now, what it can do, a copy's console. */
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { Deferred, withDeadline } from '../../src/base/async.ts';
import type { Action, Copy, PairPicture, ServerMessage, VmPicture } from '../../src/dashboard/protocol.ts';
import type { HaEvent, HostView } from '../../src/ha/views.ts';

const STEP_MS = 90_000;
const SUBPROTOCOL = 'colo-dashboard';

type Hello = Extract<ServerMessage, { readonly type: 'hello' }>;

export class PageClient {
  hello: Hello | null = null;
  hosts: readonly HostView[] = [];
  vm: VmPicture | null = null;
  pair: PairPicture | null = null;
  checkpoints = 0;
  readonly events: HaEvent[] = [];
  readonly #origin: string;
  readonly #socket: WebSocket;
  readonly #answers = new Map<number, Deferred<string>>();
  readonly #changed = new Set<() => void>();
  #asked = 0;

  private constructor(origin: string, socket: WebSocket) {
    this.#origin = origin;
    this.#socket = socket;
    socket.on('message', (bytes: Buffer) => this.#take(JSON.parse(bytes.toString()) as ServerMessage));
  }

  /** `url`: of the page. */
  static async open(url: string, vm: string): Promise<PageClient> {
    const { origin } = new URL(url);
    const socket = new WebSocket(new URL('/v1/live', origin), [SUBPROTOCOL], { origin });
    const client = new PageClient(origin, socket);
    await once(socket, 'open');
    socket.send(JSON.stringify({ type: 'watch', vm }));
    return client;
  }

  /** Resolves with the VM once it is as `accepts` says. */
  async until(what: string, accepts: (vm: VmPicture) => boolean): Promise<VmPicture> {
    return this.#untilChanged(what, () => (this.vm && accepts(this.vm) ? this.vm : null));
  }

  async untilEvent(what: string, accepts: (event: HaEvent) => boolean): Promise<HaEvent> {
    return this.#untilChanged(what, () => this.events.find(accepts) ?? null);
  }

  async untilPair(what: string, accepts: (pair: PairPicture) => boolean): Promise<PairPicture> {
    return this.#untilChanged(what, () => (this.pair && accepts(this.pair) ? this.pair : null));
  }

  /** Rejects with the server's text. */
  async act(vm: string, action: Action): Promise<string> {
    const id = ++this.#asked;
    const answer = new Deferred<string>();
    this.#answers.set(id, answer);
    this.#socket.send(JSON.stringify({ type: 'act', id, vm, action }));
    return withDeadline(answer.promise, STEP_MS, action);
  }

  async console(vm: string, copy: Copy): Promise<ConsoleClient> {
    const url = new URL(`/v1/console?vm=${vm}&copy=${copy}`, this.#origin);
    const socket = new WebSocket(url, [SUBPROTOCOL], { origin: this.#origin });
    const client = new ConsoleClient(socket);
    await once(socket, 'open');
    return client;
  }

  close(): void {
    this.#socket.terminate();
  }

  async #untilChanged<T>(what: string, look: () => T | null): Promise<T> {
    const found = new Deferred<T>();
    const check = (): void => {
      const value = look();
      if (value !== null) found.resolve(value);
    };
    this.#changed.add(check);
    check();
    try {
      return await withDeadline(found.promise, STEP_MS, what);
    } catch (cause) {
      const seen = `${this.vm?.state ?? 'no VM'}: ${this.vm?.reason ?? ''}`;
      const told = this.events.map(({ type, reason }) => `${type}: ${reason}`).join('\n');
      throw new Error(`${what} was not seen (${seen})\n${told}`, { cause });
    } finally {
      this.#changed.delete(check);
    }
  }

  #take(message: ServerMessage): void {
    if (message.type === 'hello') this.hello = message;
    if (message.type === 'events') this.events.push(...message.events);
    if (message.type === 'pair') this.pair = message.pair;
    if (message.type === 'checkpoints') this.checkpoints += message.samples.length;
    if (message.type === 'cluster') {
      this.hosts = message.hosts;
      this.vm = message.vms[0] ?? null;
    }
    if (message.type === 'answer') {
      const answer = this.#answers.get(message.id);
      if (message.error === null) answer?.resolve(message.text);
      else answer?.reject(new Error(message.error));
    }
    for (const check of [...this.#changed]) check();
  }
}

export class ConsoleClient {
  text = '';
  readonly closed: Promise<unknown>;
  readonly #socket: WebSocket;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    this.closed = once(socket, 'close');
    socket.on('message', (bytes: Buffer) => (this.text += bytes.toString('latin1')));
  }

  type(text: string): void {
    this.#socket.send(Buffer.from(text, 'latin1'), { binary: true });
  }

  /** Resolves when it has said so. */
  async says(pattern: RegExp): Promise<void> {
    const found = new Deferred<void>();
    const check = (): void => {
      if (pattern.test(this.text)) found.resolve();
    };
    this.#socket.on('message', check);
    check();
    try {
      await withDeadline(found.promise, STEP_MS, `${pattern.source} on the console`);
    } catch (cause) {
      throw new Error(`the console said: ${this.text.slice(-500)}`, { cause });
    } finally {
      this.#socket.off('message', check);
    }
  }

  close(): void {
    this.#socket.terminate();
  }
}
