/**
 * The token of a server that wants one. It comes in the address's fragment, which is never sent to anybody, or is typed into
 * the form, and goes to the server as a WebSocket subprotocol: the only thing of a handshake that a page may choose.
 */
export const SUBPROTOCOL = 'colo-dashboard';

/** How the server closes: the token is missing or wrong; this page may not ask it at all. */
export const CLOSED_TOKEN = 4401;
export const CLOSED_REFUSED = 4403;

/** `#token=…`, alone or among other words; null: there is none. */
export function tokenOf(fragment: string): string | null {
  const token = new URLSearchParams(fragment.replace(/^#/, '')).get('token');
  return token === null || token === '' ? null : token;
}

/** What a subprotocol's name may consist of (RFC 9110, 5.6.2). */
export const isToken = (text: string): boolean => /^[\w!#$%&'*+.^`|~-]{1,512}$/.test(text);

export const subprotocols = (token: string | null): string[] =>
  token === null ? [SUBPROTOCOL] : [SUBPROTOCOL, `token.${token}`];
