/** What is told apart, and by what: the cases of docs/failures.md, and that the table leaves no gap and has no dead row. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DIAGNOSES, diagnose } from '../../../src/ha/beat/diagnose.ts';
import type { DiagnosisKind, Evidence } from '../../../src/ha/beat/diagnose.ts';
import { othersEvidence, peerEvidence } from '../../../src/ha/beat/evidence.ts';
import type { VmBeat } from '../../../src/ha/beat/messages.ts';
import type { PeerState } from '../../../src/ha/beat/peers.ts';

const NAMES = { peer: 'VM-host-b', vm: 'shop' };
const WELL: Evidence = {
  stoodStill: false,
  checkpoint: 'ok',
  node: 'ok',
  process: 'alive',
  probe: 'unknown',
  othersSeePeer: 'unknown',
  anybodyElse: 'unknown',
};
const UNREACHABLE = { checkpoint: 'silent', node: 'silent', process: 'unknown', probe: 'timeout' } as const;

interface Case {
  readonly what: string;
  readonly evidence: Partial<Evidence>;
  readonly kind: DiagnosisKind;
  readonly mayWait?: true;
}

const CASES: readonly Case[] = [
  { what: 'all is well', evidence: {}, kind: 'well' },
  { what: 'the heartbeat network is cut', evidence: { node: 'silent', process: 'unknown' }, kind: 'well' },
  { what: 'its daemon is started anew', evidence: { node: 'closed', process: 'unknown' }, kind: 'well' },
  { what: 'kill -9 of the VM', evidence: { checkpoint: 'closed', process: 'dead' }, kind: 'process-dead' },
  {
    what: 'kill -9 of the VM, the daemon has not said so yet',
    evidence: { checkpoint: 'closed', process: 'unknown' },
    kind: 'process-dead',
  },
  {
    what: 'kill -9 of the VM, heartbeat network cut',
    evidence: { checkpoint: 'closed', node: 'silent', process: 'unknown', probe: 'yes' },
    kind: 'process-dead',
  },
  {
    what: 'the word of its death comes before the end of the connection',
    evidence: { process: 'dead' },
    kind: 'process-dead',
  },
  {
    what: 'kill -STOP of the VM, noticed before the silence',
    evidence: { process: 'stopped' },
    kind: 'process-frozen',
  },
  {
    what: 'the VM hangs: its monitor is mute',
    evidence: { checkpoint: 'silent', process: 'mute' },
    kind: 'process-frozen',
  },
  { what: 'a slow monitor is no freeze', evidence: { process: 'mute' }, kind: 'well' },
  {
    what: 'kill -9 of the daemon, kill -STOP of the VM',
    evidence: { checkpoint: 'silent', node: 'refused', process: 'unknown', probe: 'refused' },
    kind: 'process-frozen',
  },
  {
    what: 'kill -STOP of everything',
    evidence: { ...UNREACHABLE, probe: 'yes' },
    kind: 'host-frozen',
  },
  {
    what: 'shut down',
    evidence: { checkpoint: 'closed', node: 'closed', process: 'unknown', probe: 'timeout' },
    kind: 'host-dead',
  },
  {
    what: 'the power is cut, a third host is there',
    evidence: { ...UNREACHABLE, othersSeePeer: 'no', anybodyElse: 'yes' },
    kind: 'host-dead',
  },
  { what: 'the power is cut, two hosts only', evidence: UNREACHABLE, kind: 'network-cut' },
  {
    what: 'the power is cut, the arbiter is reached',
    evidence: { ...UNREACHABLE, anybodyElse: 'yes' },
    kind: 'network-cut',
  },
  {
    what: 'both networks between the two are cut, a third hears it',
    evidence: { ...UNREACHABLE, othersSeePeer: 'yes', anybodyElse: 'yes' },
    kind: 'network-cut',
  },
  {
    what: 'the pair’s network is cut',
    evidence: { checkpoint: 'silent', probe: 'timeout' },
    kind: 'link-cut',
    mayWait: true,
  },
  {
    what: 'the pair’s network is cut, and nothing is known of the process',
    evidence: { checkpoint: 'silent', process: 'unknown' },
    kind: 'link-cut',
  },
  {
    what: 'the copy has given up the channel',
    evidence: { checkpoint: 'closed', process: 'alive' },
    kind: 'link-cut',
  },
  { what: 'my cables are out', evidence: { ...UNREACHABLE, anybodyElse: 'no' }, kind: 'i-am-cut-off' },
  {
    what: 'I was stopped: everybody is silent, nobody is to blame',
    evidence: { ...UNREACHABLE, stoodStill: true },
    kind: 'i-stood-still',
  },
  { what: 'no pair yet', evidence: { checkpoint: 'none' }, kind: 'well' },
  {
    what: 'no pair yet, and the host is silent',
    evidence: { ...UNREACHABLE, checkpoint: 'none', probe: 'yes' },
    kind: 'host-frozen',
  },
];

for (const { what, evidence, kind, mayWait } of CASES) {
  test(`${what}: ${kind}`, () => {
    const found = diagnose({ ...WELL, ...evidence }, NAMES);
    assert.equal(found.kind, kind);
    assert.equal(found.mayWait, mayWait ?? false);
    assert.equal(found.isLoss, kind !== 'well' && kind !== 'i-stood-still');
    assert.doesNotMatch(found.sentence, /PEER|VM(?!-host)/);
  });
}

const VALUES: { readonly [K in keyof Evidence]: readonly Evidence[K][] } = {
  stoodStill: [false, true],
  checkpoint: ['ok', 'silent', 'closed', 'none'],
  node: ['ok', 'silent', 'closed', 'refused', 'none'],
  process: ['alive', 'dead', 'stopped', 'mute', 'unknown'],
  probe: ['yes', 'refused', 'timeout', 'unknown'],
  othersSeePeer: ['yes', 'no', 'unknown'],
  anybodyElse: ['yes', 'no', 'unknown'],
};

function everyEvidence(): Evidence[] {
  let all: Partial<Evidence>[] = [{}];
  for (const key of Object.keys(VALUES) as (keyof Evidence)[]) {
    all = all.flatMap((some) => VALUES[key].map((value) => ({ ...some, [key]: value })));
  }
  return all as Evidence[];
}

test('every evidence has a diagnosis, every row one, and waiting needs the word that the copy lives', () => {
  const used = new Set<string>();
  for (const evidence of everyEvidence()) {
    const { kind, sentence, mayWait, isLoss } = diagnose(evidence, { peer: 'PEER', vm: 'VM' });
    used.add(`${kind} ${sentence}`);
    if (mayWait) assert.deepEqual([evidence.process, evidence.node], ['alive', 'ok']);
    if (mayWait) assert.ok(isLoss);
    if (evidence.stoodStill) assert.equal(isLoss, false);
  }
  for (const row of DIAGNOSES) assert.ok(used.has(`${row.kind} ${row.say}`), `never: ${row.say}`);
});

test('docs/failures.md has every kind of diagnosis, and no other', () => {
  const text = readFileSync(fileURLToPath(new URL('../../../docs/failures.md', import.meta.url)), 'utf8');
  const named = [...text.matchAll(/^\| `([a-z-]+)` /gm)].map((match) => match[1]!);
  assert.deepEqual(new Set(named), new Set(DIAGNOSES.map(({ kind }) => kind)));
});

const VM: VmBeat = {
  name: 'shop',
  pid: 7,
  condition: 'alive',
  state: 'running',
  answerMs: 10,
  phase: 'secondary',
  epoch: 3,
};
function heard(vm: Partial<VmBeat>, saidMs: number, status: PeerState['status'] = 'ok'): PeerState {
  return {
    host: 'b',
    status,
    isConnected: status === 'ok',
    lastHeardMs: saidMs,
    instance: 'i',
    isOrderly: false,
    vms: new Map([['shop', { ...VM, ...vm, saidMs }]]),
  };
}

test('that a copy lives is believed when its monitor has answered since it fell silent', () => {
  assert.deepEqual(peerEvidence(heard({}, 50), 'shop', 400), { node: 'ok', process: 'alive' });
  assert.equal(peerEvidence(heard({ answerMs: 390 }, 50), 'shop', 400).process, 'unknown');
  assert.equal(peerEvidence(heard({ answerMs: null }, 50), 'shop', 400).process, 'unknown');
  assert.equal(peerEvidence(heard({}, 50, 'silent'), 'shop', 400).process, 'unknown');
  assert.equal(peerEvidence(heard({}, 50), 'another', 400).process, 'unknown');
});

test('that it has died is believed whenever it was said, of that process', () => {
  assert.equal(peerEvidence(heard({ condition: 'dead' }, 9000, 'closed'), 'shop', 1).process, 'dead');
  assert.equal(peerEvidence(heard({ condition: 'dead' }, 1), 'shop', 1, 7).process, 'dead');
  assert.equal(peerEvidence(heard({ condition: 'dead' }, 1), 'shop', 1, 8).process, 'unknown');
  assert.equal(peerEvidence(heard({ condition: 'stopped' }, 1), 'shop', 1).process, 'stopped');
});

test('what others say of a host counts when they should hear it', () => {
  assert.equal(othersEvidence({ hears: ['c'], misses: ['d'] }), 'yes');
  assert.equal(othersEvidence({ hears: [], misses: ['d'] }), 'no');
  assert.equal(othersEvidence({ hears: [], misses: [] }), 'unknown');
});
