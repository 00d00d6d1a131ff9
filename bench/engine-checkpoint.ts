/**
 * What a checkpoint of an idle guest costs on the embedded engine: the pause with its capture, and the load on the other
 * side. `COLO_GUEST_IMAGE=… node --import tsx bench/engine-checkpoint.ts`. One process per machine, as in real life, so
 * that the memory figure is one engine's.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { messageOf } from '../src/base/errors.ts';
import type { Snapshot } from '../src/engine/engine.ts';
import { guestImage, guestMachine, skipReason } from '../test/interop/engine/guest-machine.ts';

const ROUNDS = 30;
const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
const MIB = 1024 * 1024;

function report(name: string, values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? NaN;
  return `${name.padEnd(28)} median ${median.toFixed(1).padStart(7)}   max ${(sorted.at(-1) ?? NaN).toFixed(1).padStart(7)}`;
}

const rssMib = (): number => Math.round(process.memoryUsage.rss() / MIB);

async function secondary(): Promise<void> {
  const image = guestImage();
  const { engine } = await guestMachine(image, MAC);
  process.on('message', (snapshot: Snapshot) => {
    void (async () => {
      if (engine.state === 'running') await engine.pause();
      // Fresh copies: what IPC hands over lies in larger buffers.
      const own = {
        ram: Uint8Array.from(snapshot.ram),
        device: Uint8Array.from(snapshot.device),
        pages: snapshot.pages,
      };
      const start = performance.now();
      await engine.load([own]);
      const ms = performance.now() - start;
      await engine.resume();
      process.send?.({ ms, rss: rssMib() });
    })().catch((error: unknown) => {
      console.error(messageOf(error));
      process.exitCode = 1;
      process.disconnect();
    });
  });
  process.once('disconnect', () => void engine.stop());
  process.send?.('ready');
}

async function primary(): Promise<void> {
  const child = fork(import.meta.filename, ['secondary'], {
    serialization: 'advanced',
    execArgv: process.execArgv,
  });
  await once(child, 'message');
  const { engine, console: tty } = await guestMachine(guestImage(), MAC);
  await engine.resume();
  await tty.waitFor(/colo-guest: ready/);
  const pauses: number[] = [];
  const captures: number[] = [];
  const totals: number[] = [];
  const loads: number[] = [];
  const pages: number[] = [];
  let secondaryRss = 0;
  for (let round = 0; round <= ROUNDS; round++) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    const start = performance.now();
    await engine.pause();
    const paused = performance.now();
    const snapshot = await engine.capture({ full: round === 0 });
    const captured = performance.now();
    await engine.resume();
    const resumed = performance.now();
    child.send(snapshot);
    const [answer] = (await once(child, 'message')) as [{ ms: number; rss: number }];
    secondaryRss = answer.rss;
    if (round === 0) {
      console.log(
        `full: ${snapshot.pages} pages, capture ${(captured - paused).toFixed(0)} ms, load ${answer.ms.toFixed(0)} ms`,
      );
      continue;
    }
    pauses.push(paused - start);
    captures.push(captured - paused);
    totals.push(resumed - start);
    loads.push(answer.ms);
    pages.push(snapshot.pages);
  }
  console.log(report('pause (ms)', pauses));
  console.log(report('capture (ms)', captures));
  console.log(report('guest stands still (ms)', totals));
  console.log(report('load (ms)', loads));
  console.log(report('changed pages', pages));
  console.log(
    `memory: primary ${rssMib()} MiB, secondary ${secondaryRss} MiB (each with two copies of its 64 MiB disk)`,
  );
  child.disconnect();
  await engine.stop();
}

if (skipReason) {
  console.error(`nothing to measure: ${skipReason}`);
  process.exitCode = 1;
} else await (process.argv[2] === 'secondary' ? secondary() : primary());
