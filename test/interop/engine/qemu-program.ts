/**
 * A program for the tests to kill: two QemuEngines, the second of which takes a state of the first's again and again. Its
 * argument names the machines; it prints a line for each load.
 */
import { bootedQemu, waitingQemu } from './qemu-machines.ts';

const name = process.argv[2] ?? 'killed';
const a = await bootedQemu({ name: `${name}-a` });
const b = await waitingQemu({ name: `${name}-b` });
await a.engine.pause();
await b.engine.load([await a.engine.capture({ full: true })]);
for (let loads = 1; ; loads++) {
  process.stdout.write(`loaded ${loads}\n`);
  await a.engine.resume();
  await b.engine.resume();
  await a.console.counter();
  await Promise.all([a.engine.pause(), b.engine.pause()]);
  await b.engine.load([await a.engine.capture({ full: false })]);
}
