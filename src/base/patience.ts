/**
 * Waiting for a peer in a process that may stand still itself (SIGSTOP, a suspended host, no CPU). When it goes on,
 * every timer is due at once, before what the peer has sent meanwhile has been read; so who is going to be accused of
 * silence is listened to once more.
 */

/** Calls back after the event loop has looked at its sockets once more. Returns what ends it. */
export function afterLook(act: () => void): () => void {
  // The first comes after the sockets of this turn; reading may take a turn more.
  let immediate = setImmediate(() => {
    immediate = setImmediate(act);
  });
  return () => clearImmediate(immediate);
}

/** A timer whose `act` runs only after such a look. Returns what ends it. */
export function afterPatience(ms: number, act: () => void): () => void {
  let endLook: (() => void) | null = null;
  const timer = setTimeout(() => {
    endLook = afterLook(act);
  }, ms);
  return () => {
    clearTimeout(timer);
    endLook?.();
  };
}
