/**
 * `-p`: a bar on a terminal, else qemu-img's own lines on standard output. Without `-p`, SIGUSR1 makes the command tell
 * how far it is (QEMU docs/tools/qemu-img.rst, -p; util/qemu-progress.c's steps, asked of QEMU 7.2).
 */
import { SingleBar } from 'cli-progress';
import type { ImgIo } from './io.ts';

export class Progress {
  readonly #io: ImgIo;
  readonly #enabled: boolean;
  /** Percent between two lines. */
  readonly #step: number;
  readonly #bar: SingleBar | null;
  #percent = 0;
  #printed = -Infinity;
  readonly #onSignal = (): void => {
    this.#io.err(`    (${this.#percent.toFixed(2)}/100%)\n`);
  };

  constructor(io: ImgIo, enabled: boolean, step: number) {
    this.#io = io;
    this.#enabled = enabled;
    this.#step = step;
    this.#bar = enabled && io.isTerminal ? newBar() : null;
    if (!enabled) process.on('SIGUSR1', this.#onSignal);
    this.#bar?.start(100, 0);
    this.update(0);
  }

  update(percent: number): void {
    this.#percent = Math.min(100, percent);
    if (!this.#enabled) return;
    const isEnd = this.#percent === 0 || this.#percent === 100;
    if (!isEnd && Math.abs(this.#percent - this.#printed) <= this.#step) return;
    this.#printed = this.#percent;
    if (this.#bar) this.#bar.update(Math.round(this.#percent));
    else this.#io.out(`    (${this.#percent.toFixed(2)}/100%)\r`);
  }

  end(): void {
    process.off('SIGUSR1', this.#onSignal);
    if (this.#bar) this.#bar.stop();
    else if (this.#enabled) this.#io.out('\n');
  }
}

function newBar(): SingleBar {
  return new SingleBar({
    format: '{bar} {percentage}%',
    stream: process.stderr,
    barsize: 40,
    hideCursor: true,
  });
}
