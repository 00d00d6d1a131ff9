/**
 * What has happened to the other copy? A pure function over what is known, and one table. It is told to people and decides
 * one thing only: whether a silence may be ridden out. Who may go on alone is the arbiter's to say, whatever stands here
 * (rule 4 of docs/architecture.md), so a diagnosis that is wrong costs time or protection, never the guest.
 *
 * Not told apart, because they cannot be: a host that is dead, and one that no network leads to.
 */

export interface Evidence {
  /** This process stood still a moment ago and has not heard anybody since. */
  readonly stoodStill: boolean;
  /**
   * The checkpoint channel of the pair. `closed`: the peer's kernel ended it (FIN, RST), not this side out of impatience:
   * that is `silent`. `none`: there is none yet.
   */
  readonly checkpoint: 'ok' | 'silent' | 'closed' | 'none';
  /** The heartbeat channel to the peer's daemon: PeerState.status. */
  readonly node: 'ok' | 'silent' | 'closed' | 'refused' | 'none';
  /** What the peer's daemon says of the process, if it is news: see evidence.ts. */
  readonly process: 'alive' | 'dead' | 'stopped' | 'mute' | 'unknown';
  /** A fresh TCP connection to the peer's API. */
  readonly probe: 'yes' | 'refused' | 'timeout' | 'unknown';
  /** Whether other hosts, or the registry, hear the peer's host. */
  readonly othersSeePeer: 'yes' | 'no' | 'unknown';
  /** Whether anybody else at all, another host or the arbiter, can be reached from here. */
  readonly anybodyElse: 'yes' | 'no' | 'unknown';
}

export type DiagnosisKind =
  | 'well'
  | 'process-dead'
  | 'process-frozen'
  | 'host-dead'
  | 'host-frozen'
  | 'link-cut'
  | 'network-cut'
  | 'i-am-cut-off'
  | 'i-stood-still';

export interface Diagnosis {
  readonly kind: DiagnosisKind;
  /** For the events: says by what it is known. */
  readonly sentence: string;
  /** The copy is lost, or cannot be told from one that is: ask the arbiter, unless the silence may be ridden out. */
  readonly isLoss: boolean;
  /** A silence that may end, and the other copy is known to live meanwhile. */
  readonly mayWait: boolean;
}

interface Row {
  /** All that has to be so; what is not named may be anything. */
  readonly when: { readonly [K in keyof Evidence]?: readonly Evidence[K][] };
  readonly kind: DiagnosisKind;
  /** PEER, VM stand for the names. */
  readonly say: string;
  readonly mayWait?: true;
}

/** The first row that fits is the diagnosis. */
export const DIAGNOSES: readonly Row[] = [
  {
    when: { stoodStill: [true] },
    kind: 'i-stood-still',
    say: 'this host’s daemon stood still itself, so that PEER may have been heard meanwhile: looking again',
  },
  // What the peer's daemon says of the process.
  {
    when: { process: ['dead'] },
    kind: 'process-dead',
    say: 'the process of VM on PEER has ended, its host says',
  },
  {
    when: { process: ['stopped'] },
    kind: 'process-frozen',
    say: 'the process of VM on PEER is stopped, its host says',
  },
  {
    when: { process: ['mute'], checkpoint: ['silent', 'closed'] },
    kind: 'process-frozen',
    say: 'the process of VM on PEER answers neither here nor on its monitor, its host says',
  },
  // Nothing is missing, or nothing that the copy needs.
  { when: { checkpoint: ['ok'] }, kind: 'well', say: 'the copy of VM on PEER answers' },
  { when: { checkpoint: ['none'], node: ['ok'] }, kind: 'well', say: 'PEER answers' },
  // The copy's connection has been ended by the kernel over there.
  {
    when: { checkpoint: ['closed'], node: ['ok'], process: ['alive'] },
    kind: 'link-cut',
    say: 'VM on PEER has closed the checkpoint channel, though its process lives',
  },
  {
    when: { checkpoint: ['closed'], node: ['ok'] },
    kind: 'process-dead',
    say: 'the process of VM on PEER has closed its connection, and its host is heard',
  },
  {
    when: { checkpoint: ['closed'], node: ['silent', 'none'], probe: ['yes', 'refused'] },
    kind: 'process-dead',
    say: 'the process of VM on PEER has closed its connection, and the host’s kernel answers',
  },
  {
    when: { checkpoint: ['closed'], node: ['closed'], probe: ['yes'] },
    kind: 'process-dead',
    say: 'the process of VM on PEER has closed its connection; the daemon did too, and is back',
  },
  {
    when: { checkpoint: ['closed'] },
    kind: 'host-dead',
    say: 'every connection to PEER has been closed: it has been shut down or started anew',
  },
  // The copy is silent; the host is heard.
  {
    when: { node: ['ok'], process: ['alive'] },
    kind: 'link-cut',
    say: 'the link of VM to PEER is cut: its host is heard on the heartbeat channel and says that the process lives',
    mayWait: true,
  },
  {
    when: { node: ['ok'] },
    kind: 'link-cut',
    say: 'VM on PEER is silent; its host is heard, and says nothing of the process',
  },
  // Both are silent; the kernel over there answers, so that host and network live.
  {
    when: { probe: ['yes'], node: ['silent', 'none'] },
    kind: 'host-frozen',
    say: 'PEER is frozen: its kernel accepts connections, and every process is silent',
  },
  {
    when: { checkpoint: ['none'], probe: ['yes'] },
    kind: 'well',
    say: 'the daemon of PEER has closed its connection, and is back',
  },
  {
    when: { checkpoint: ['none'], probe: ['refused'] },
    kind: 'host-dead',
    say: 'the daemon of PEER is not running',
  },
  {
    when: { probe: ['yes', 'refused'] },
    kind: 'process-frozen',
    say: 'VM on PEER is silent; its daemon is down or has been, and the host’s kernel answers',
  },
  // Nothing comes back from there at all.
  {
    when: { anybodyElse: ['no'] },
    kind: 'i-am-cut-off',
    say: 'nobody can be reached from here: neither PEER, nor another host, nor the arbiter',
  },
  {
    when: { othersSeePeer: ['yes'] },
    kind: 'network-cut',
    say: 'nothing of PEER gets here, though others hear it: the networks between the two are cut',
  },
  {
    when: { node: ['closed', 'refused'] },
    kind: 'host-dead',
    say: 'PEER has closed its connections and is gone from the network: it has been shut down',
  },
  { when: { othersSeePeer: ['no'] }, kind: 'host-dead', say: 'nobody hears PEER any more' },
  {
    when: {},
    kind: 'network-cut',
    say: 'nothing of PEER gets here: it is dead, or every network to it is cut; which cannot be told from here',
  },
];

const NO_LOSS: ReadonlySet<DiagnosisKind> = new Set(['well', 'i-stood-still']);

/** `names` are for the sentence. */
export function diagnose(
  evidence: Evidence,
  names: { readonly peer: string; readonly vm: string },
): Diagnosis {
  const row = DIAGNOSES.find(({ when }) => fits(when, evidence));
  // The last row fits everything; a test looks.
  if (!row) throw new RangeError('no diagnosis');
  return {
    kind: row.kind,
    sentence: row.say.replace(/PEER|VM/g, (word) => (word === 'VM' ? names.vm : names.peer)),
    isLoss: !NO_LOSS.has(row.kind),
    mayWait: row.mayWait ?? false,
  };
}

function fits(when: Row['when'], evidence: Evidence): boolean {
  return (Object.keys(when) as (keyof Evidence)[]).every((key) =>
    (when[key] as readonly unknown[]).includes(evidence[key]),
  );
}
