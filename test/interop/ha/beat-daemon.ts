/**
 * A daemon's heartbeats in a process of its own, with one "VM": `sleep`, whose monitor answers always, and a port that
 * stands for its API. Its argument: JSON, see Setup. Tells by lines of JSON what it notices; to a line of JSON (Question)
 * on its standard input it says what it makes of a peer's silence.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { diagnose, type Evidence } from '../../../src/ha/beat/diagnose.ts';
import { othersEvidence, peerEvidence } from '../../../src/ha/beat/evidence.ts';
import { Heartbeats } from '../../../src/ha/beat/heartbeats.ts';
import type { VmBeat } from '../../../src/ha/beat/messages.ts';
import { probe } from '../../../src/ha/beat/prober.ts';
import { VmWatch } from '../../../src/ha/beat/vm-watch.ts';

interface Place {
  readonly address: string;
  readonly port: number;
}

export interface Setup extends Place {
  readonly host: string;
  readonly peers: readonly (Place & { readonly host: string })[];
  readonly api?: Place;
}

export interface Question {
  readonly peer: string;
  readonly api: Place;
  readonly checkpoint: Evidence['checkpoint'];
  readonly silentMs: number;
}

/** Loopback and veth: an answer that is to come is there by then, on a busy machine too. */
const PROBE_MS = 300;
const setup = JSON.parse(process.argv[2] ?? '') as Setup;
const say = (event: string, rest: object = {}): void => console.log(JSON.stringify({ event, ...rest }));

const vm = spawn('sleep', ['600'], { stdio: 'ignore' });
const heartbeats = new Heartbeats({
  host: setup.host,
  address: setup.address,
  port: setup.port,
  intervalMs: 100,
  patienceMs: 400,
  report: () => [beat()],
  hooks: {
    onSilent: (peer) => say('silent', { peer }),
    onBack: (peer) => say('back', { peer }),
    onClosed: (peer, isOrderly) => say('closed', { peer, isOrderly }),
    onStoodStill: () => say('stood-still'),
  },
});
const watch = new VmWatch(
  { pid: vm.pid ?? 0, qmp: { execute: () => Promise.resolve() }, exited: once(vm, 'exit') },
  { intervalMs: 100, patienceMs: 400, onChange: () => heartbeats.tell(beat()) },
);
function beat(): VmBeat {
  return { name: 'shop', phase: 'secondary', epoch: 5, ...watch.pulse() };
}

async function judge({ peer, api, checkpoint, silentMs }: Question): Promise<void> {
  const others = setup.peers.filter(({ host }) => host !== peer).map(({ host }) => heartbeats.peer(host));
  const evidence: Evidence = {
    stoodStill: false,
    checkpoint,
    ...peerEvidence(heartbeats.peer(peer), 'shop', silentMs),
    probe: await probe(api.address, api.port, PROBE_MS),
    othersSeePeer: othersEvidence(heartbeats.whoHears(peer)),
    anybodyElse:
      others.length === 0 ? 'unknown' : others.some(({ isConnected }) => isConnected) ? 'yes' : 'no',
  };
  say('diagnosis', { kind: diagnose(evidence, { peer, vm: 'shop' }).kind, evidence });
}

createInterface({ input: process.stdin })
  .on('line', (line) => void judge(JSON.parse(line) as Question))
  // Its parent is gone.
  .on('close', () => {
    vm.kill('SIGKILL');
    process.exit();
  });
await heartbeats.start();
if (setup.api) {
  const api = net.createServer((socket) => socket.on('error', () => undefined).resume());
  await new Promise<void>((resolve) => api.listen(setup.api?.port, setup.api?.address, resolve));
}
for (const { host, ...at } of setup.peers) heartbeats.watch(host, at);
say('listening', { port: heartbeats.port, vm: vm.pid });
