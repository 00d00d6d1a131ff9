/**
 * Progress bars on standard error, for whoever looks: image building, conversion, resync. Without a terminal there is none:
 * what a pipe or a log gets is the commands' own lines.
 */
import { SingleBar } from 'cli-progress';

export interface Bar {
  /** `fraction`: 0 to 1. */
  update(fraction: number, text: string): void;
  /** Takes it off the screen while something is printed; the next update draws it again. */
  clear(): void;
  /** Leaves it as it is. */
  stop(): void;
}

type Stream = NodeJS.WritableStream & { readonly isTTY?: boolean };

/** Null: nobody looks. */
export function stepBar(stream: Stream, first: string | null = 'starting'): Bar | null {
  if (stream.isTTY !== true) return null;
  const bar = new SingleBar({
    format: '{bar} {percentage}% {step}',
    stream,
    barsize: 30,
    hideCursor: true,
    // The longest steps are single downloads; a bar that redraws only on news would seem to hang.
    fps: 5,
  });
  let isShown = false;
  const show = (percent: number, step: string): void => {
    if (isShown) bar.update(percent, { step });
    else bar.start(100, percent, { step });
    isShown = true;
  };
  if (first !== null) show(0, first);
  return {
    update: (fraction, text) => show(Math.round(Math.min(1, Math.max(0, fraction)) * 100), text),
    clear: () => {
      if (!isShown) return;
      isShown = false;
      bar.stop();
      // Over the bar, which `stop` has left behind.
      stream.write('\x1b[1A\x1b[2K\r');
    },
    stop: () => {
      if (isShown) bar.stop();
      isShown = false;
    },
  };
}
