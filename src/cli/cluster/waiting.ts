/**
 * While a command waits for a VM: on a terminal, a bar as long as its disks are being copied. Looking is a comfort: a look
 * that fails is left out, and the command's own call tells what is wrong.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { VmView } from '../../ha/views.ts';
import { stepBar, type Bar } from '../bar.ts';
import { ResyncMeter } from './resync.ts';

/** Between two looks. */
export const LOOK_MS = 500;

/** Shows the VM's resync in `bar`; takes it away when there is none. */
export class ResyncBar {
  readonly #meter = new ResyncMeter();
  readonly #bar: Bar | null;

  constructor(stream = process.stderr) {
    this.#bar = stepBar(stream, null);
  }

  get isSeen(): boolean {
    return this.#bar !== null;
  }

  show(vm: VmView, nowMs = Date.now()): void {
    const progress = this.#meter.look(vm, nowMs);
    if (progress) this.#bar?.update(progress.fraction, progress.text);
    else this.clear();
  }

  clear(): void {
    this.#bar?.clear();
  }
}

/** `call`'s result; meanwhile `look` is asked for the bar. */
export async function withResyncBar<T>(look: () => Promise<VmView>, call: Promise<T>): Promise<T> {
  const bar = new ResyncBar();
  if (!bar.isSeen) return call;
  const over = new AbortController();
  const watching = (async (): Promise<void> => {
    for (;;) {
      const vm = await look().catch(() => null);
      if (over.signal.aborted) return;
      if (vm) bar.show(vm);
      await delay(LOOK_MS, undefined, { signal: over.signal }).catch(() => undefined);
    }
  })();
  try {
    return await call;
  } finally {
    over.abort();
    bar.clear();
    void watching;
  }
}
