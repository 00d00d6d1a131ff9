/**
 * A daemon's heartbeats in a process of its own, with one "VM": `sleep`, whose monitor answers always. Tells by lines of
 * JSON what it notices. Arguments: its name, the port to listen on, another host's name and heartbeat port.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Heartbeats } from '../../../src/ha/beat/heartbeats.ts';
import type { VmBeat } from '../../../src/ha/beat/messages.ts';
import { VmWatch } from '../../../src/ha/beat/vm-watch.ts';

const [, , host = '', port = '', other = '', otherPort = ''] = process.argv;
const say = (event: string, rest: object = {}): void => console.log(JSON.stringify({ event, ...rest }));

const vm = spawn('sleep', ['600'], { stdio: 'ignore' });
// Its parent is killed in the middle of things.
process.stdin.resume().on('end', () => {
  vm.kill('SIGKILL');
  process.exit();
});
const heartbeats = new Heartbeats({
  host,
  address: '127.0.0.1',
  port: Number(port),
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
await heartbeats.start();
heartbeats.watch(other, { address: '127.0.0.1', port: Number(otherPort) });
say('listening', { port: heartbeats.port, vm: vm.pid });
