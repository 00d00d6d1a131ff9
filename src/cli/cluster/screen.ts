/**
 * A terminal's whole screen for a live view: the alternate one (xterm's 1049), so that what stood there before comes back,
 * also when a signal ends the program. Lines are written over the old ones; nothing is cleared first, so nothing flickers.
 */
import type { WriteStream } from 'node:tty';
import { cutPainted } from '../style.ts';

const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;

/** From the top left corner: each line, cut to the width, up to its end, and nothing below. No line wraps, none scrolls. */
export function frame(
  lines: readonly string[],
  columns = process.stdout.columns,
  rows = process.stdout.rows,
): string {
  // A terminal may not know its size, or say 0.
  const width = columns > 0 ? columns : Infinity;
  const shown = lines.slice(0, rows > 0 ? rows : lines.length);
  // The whole frame at once, where the terminal knows of that (mode 2026).
  const text = shown.map((line) => `${cutPainted(line, width)}\x1b[K`).join('\r\n');
  return `\x1b[?2026h\x1b[H${text}\x1b[J\x1b[?2026l`;
}

export class Screen {
  readonly #out: WriteStream;
  readonly #onKey: (key: string) => void;
  readonly #onSize: () => void;
  readonly #onExit = (): void => this.close();
  readonly #onContinue = (): void => {
    process.stdin.setRawMode(true);
    this.#out.write(ENTER);
    this.#onSize();
  };
  readonly #onData = (typed: Buffer): void => this.#keys(typed.toString('latin1'));
  /** Ends by the signal itself, so that whoever waits for us knows. */
  readonly #onSignal = (signal: NodeJS.Signals): void => {
    this.close();
    process.kill(process.pid, signal);
  };
  #isOpen = true;

  /** `onKey`: a character, or `up`, `down`; `onSize`: everything has to be drawn again. */
  constructor(out: WriteStream, onKey: (key: string) => void, onSize: () => void) {
    this.#out = out;
    this.#onKey = onKey;
    this.#onSize = onSize;
    process.once('exit', this.#onExit);
    for (const signal of SIGNALS) process.on(signal, this.#onSignal);
    process.on('SIGCONT', this.#onContinue);
    out.on('resize', onSize);
    process.stdin.setRawMode(true);
    process.stdin.on('data', this.#onData);
    out.write(ENTER);
  }

  draw(lines: readonly string[]): void {
    if (this.#isOpen) this.#out.write(frame(lines, this.#out.columns, this.#out.rows));
  }

  /** Idempotent. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    process.off('exit', this.#onExit);
    for (const signal of SIGNALS) process.off(signal, this.#onSignal);
    process.off('SIGCONT', this.#onContinue);
    this.#out.off('resize', this.#onSize);
    process.stdin.off('data', this.#onData);
    process.stdin.setRawMode(false);
    process.stdin.pause();
    this.#out.write(LEAVE);
  }

  #keys(typed: string): void {
    for (const [key] of typed.matchAll(/\x1b\[[\d;]*[A-Za-z~]|[^]/g)) {
      if (key === '\x1a') this.#stop();
      else this.#onKey({ '\x1b[A': 'up', '\x1b[B': 'down' }[key] ?? key);
    }
  }

  /** Ctrl-Z: the shell gets its screen back; SIGCONT takes it again. */
  #stop(): void {
    this.#out.write(LEAVE);
    process.stdin.setRawMode(false);
    process.kill(process.pid, 'SIGSTOP');
  }
}
