/** The page's connection for everything but consoles and screens. Connects again by itself, and then says again what it watches. */
import { DASHBOARD_VERSION } from '../../src/dashboard/protocol.ts';
import type { Action, ClientMessage, ServerMessage, VmPicture } from '../../src/dashboard/protocol.ts';
import { ACTION_WORDS } from '../model/actions.ts';
import { waitMs } from '../model/back-off.ts';
import type { Store } from '../model/store.ts';
import { CLOSED_REFUSED, CLOSED_TOKEN } from '../model/token.ts';
import { hasToken, openSocket, setToken } from './session.ts';

/** Remembers that the page has loaded itself anew, so that it does so once. */
const RELOADED = 'colo-reloaded';

export class Live {
  readonly #store: Store;
  #socket: WebSocket | null = null;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastId = 0;
  /** What was wanted when the page was left; chosen once it is among the VMs. */
  #wish = sessionStorage.getItem('colo-vm');

  constructor(store: Store) {
    this.#store = store;
    store.subscribe((state, before) => {
      if (state.watched === before.watched) return;
      if (state.watched !== null) sessionStorage.setItem('colo-vm', state.watched);
      this.#watch();
    });
    addEventListener('online', () => this.retryNow());
  }

  connect(): void {
    clearTimeout(this.#timer);
    this.#socket?.close();
    let socket;
    try {
      socket = openSocket('v1/live');
    } catch {
      setToken(null);
      this.#store.dispatch({ type: 'link', link: 'token', text: 'That is no token.' });
      return;
    }
    this.#socket = socket;
    socket.addEventListener('message', ({ data }) => {
      if (socket === this.#socket) this.#take(JSON.parse(String(data)) as ServerMessage);
    });
    socket.addEventListener('close', ({ code, reason }) => {
      if (socket === this.#socket) this.#closed(code, reason);
    });
  }

  retryNow(): void {
    if (this.#store.state.link === 'lost') this.connect();
  }

  useToken(token: string): void {
    setToken(token);
    this.connect();
  }

  act(vm: VmPicture, action: Action, host?: string): void {
    const id = ++this.#lastId;
    const title = ACTION_WORDS[action].label + (host === undefined ? '' : ` to ${host}`);
    this.#store.dispatch({ type: 'asked', id, vm: vm.name, title });
    const isSent = this.#send({
      type: 'act',
      id,
      vm: vm.name,
      action,
      ...(host === undefined ? {} : { host }),
    });
    if (!isSent)
      this.#store.dispatch({ type: 'answer', id, error: 'There is no connection to the server.', text: '' });
  }

  #take(message: ServerMessage): void {
    this.#store.dispatch(message);
    if (message.type === 'cluster' && this.#wish !== null) {
      if (message.vms.some((vm) => vm.name === this.#wish))
        this.#store.dispatch({ type: 'choose', vm: this.#wish });
      this.#wish = null;
    }
    if (message.type !== 'hello') return;
    if ((message.version as number) !== DASHBOARD_VERSION && sessionStorage.getItem(RELOADED) === null) {
      sessionStorage.setItem(RELOADED, 'yes');
      location.reload();
      return;
    }
    this.#failures = 0;
    this.#store.dispatch({ type: 'link', link: 'open' });
    this.#watch();
  }

  #watch(): void {
    this.#send({ type: 'watch', vm: this.#store.state.watched });
  }

  #send(message: ClientMessage): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #closed(code: number, reason: string): void {
    this.#socket = null;
    if (code === CLOSED_TOKEN) {
      const text = hasToken() ? 'The server does not know this token.' : '';
      setToken(null);
      this.#store.dispatch({ type: 'link', link: 'token', text });
      return;
    }
    if (code === CLOSED_REFUSED) {
      this.#store.dispatch({
        type: 'link',
        link: 'refused',
        text: reason || 'The server does not talk to this page.',
      });
      return;
    }
    const wait = waitMs(this.#failures++);
    this.#store.dispatch({ type: 'link', link: 'lost', text: reason });
    this.#timer = setTimeout(() => this.connect(), wait);
  }
}
