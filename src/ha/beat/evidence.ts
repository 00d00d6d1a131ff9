/** Turns what the heartbeat channel has heard of a peer into evidence about one VM's copy there. */
import type { Evidence } from './diagnose.ts';
import type { PeerState } from './peers.ts';

/**
 * `silentMs`: for how long the copy has given cause for suspicion. That it lives is believed when its monitor has answered
 * since; that it has died, always. `pid`: of the copy, if known; what is said of another process is not of it.
 */
export function peerEvidence(
  peer: PeerState,
  vm: string,
  silentMs: number,
  pid: number | null = null,
): Pick<Evidence, 'node' | 'process'> {
  const node = peer.status;
  const said = peer.vms.get(vm);
  if (!said || (pid !== null && said.pid !== null && said.pid !== pid)) return { node, process: 'unknown' };
  if (said.condition === 'dead') return { node, process: 'dead' };
  if (node !== 'ok') return { node, process: 'unknown' };
  if (said.condition !== 'alive') return { node, process: said.condition };
  const answeredMs = said.answerMs === null ? Infinity : said.answerMs + said.saidMs;
  return { node, process: answeredMs < silentMs ? 'alive' : 'unknown' };
}

/** What the peers that are heard know of `host`. */
export function othersEvidence(others: {
  readonly hears: readonly string[];
  readonly misses: readonly string[];
}): Evidence['othersSeePeer'] {
  if (others.hears.length > 0) return 'yes';
  return others.misses.length > 0 ? 'no' : 'unknown';
}
