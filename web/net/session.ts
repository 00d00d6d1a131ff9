/** The token as this browser tab keeps it, and the sockets that are opened with it. */
import { subprotocols, tokenOf } from '../model/token.ts';

const KEY = 'colo-token';

let token: string | null = null;

/** Takes the token out of the address, so that it is not seen, kept in the history, or sent on with a link. */
export function takeToken(): void {
  const given = tokenOf(location.hash);
  if (given !== null) {
    setToken(given);
    history.replaceState(null, '', location.pathname + location.search);
  } else token = sessionStorage.getItem(KEY);
}

export function setToken(next: string | null): void {
  token = next;
  if (next === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, next);
}

export const hasToken = (): boolean => token !== null;

/** Throws SyntaxError when the token cannot be said in a handshake. */
export function openSocket(path: string, query: Readonly<Record<string, string>> = {}): WebSocket {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  url.search = new URLSearchParams(query).toString();
  const socket = new WebSocket(url, subprotocols(token));
  socket.binaryType = 'arraybuffer';
  return socket;
}
