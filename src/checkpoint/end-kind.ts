/**
 * Why a pair came apart, in one word that a manager can act on; COLO_EXIT carries it. A closed or reset connection means
 * that the kernel over there is alive and the process is not: that peer is dead. All else may be a peer that goes on.
 */
import { ClosedError, OwnDiskError, ProtocolError, TimeoutError, errnoOf } from '../base/errors.ts';
import { PeerFailedError } from './channel.ts';
import { ForwardFailedError } from './disk-watch.ts';

/**
 * `closed`, `reset`: the peer's socket is gone, in order or not. `unreachable`: this kernel cannot reach its host.
 * `timeout`: it was silent in the middle of a dialogue, or to a forwarded write. `protocol`: it said what it may not.
 * `peer-failed`: it said that it gives up. `forward-failed`: its disk lacks a write. `failed`: something of this side's
 * own, its disk lacks a write, say.
 */
export type EndKind =
  'closed' | 'reset' | 'unreachable' | 'timeout' | 'protocol' | 'peer-failed' | 'forward-failed' | 'failed';

const OF_SYSTEM_ERROR: Readonly<Record<string, EndKind>> = {
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  ECONNABORTED: 'reset',
  ETIMEDOUT: 'unreachable',
  EHOSTUNREACH: 'unreachable',
  EHOSTDOWN: 'unreachable',
  ENETUNREACH: 'unreachable',
  ENETDOWN: 'unreachable',
};

export function endKindOf(error: Error): EndKind {
  if (error instanceof PeerFailedError) return 'peer-failed';
  if (error instanceof ForwardFailedError) {
    if (causesOf(error).some((cause) => cause instanceof OwnDiskError)) return 'failed';
    return errnoOf(error.cause) === 'ETIMEDOUT' ? 'timeout' : 'forward-failed';
  }
  if (error instanceof ProtocolError) return 'protocol';
  if (error instanceof TimeoutError) return 'timeout';
  const { code } = (error instanceof ClosedError ? (error.cause ?? {}) : error) as { code?: unknown };
  if (typeof code === 'string') {
    const known = OF_SYSTEM_ERROR[code];
    if (known !== undefined) return known;
    if (code.startsWith('ERR_SSL_')) return 'protocol';
  }
  return error instanceof ClosedError ? 'closed' : 'failed';
}

function causesOf({ cause }: Error): Error[] {
  return cause instanceof Error ? [cause, ...causesOf(cause)] : [];
}
