/** `colo top`: the VMs of the cluster, live, in the manner of top; lines for a file or a pipe when there is no terminal. */
import { setTimeout as delay } from 'node:timers/promises';
import { InvalidArgumentError, type Command } from 'commander';
import type { NodeClient } from '../../api/http-client.ts';
import { ColoError, messageOf } from '../../base/errors.ts';
import { painterFor } from '../style.ts';
import { askNode, nodeCommand, printLine, type ExitCode, type NodeOptions } from './connection.ts';
import { isUnicodeTerminal, PauseHistory } from './pauses.ts';
import { Screen } from './screen.ts';
import { seconds } from './status.ts';
import { isOrderKey, topLines, topPlain, type Look, type TopState } from './top-view.ts';

/** Between two looks, in seconds. */
const DELAY_SEC = 2;

interface Options extends NodeOptions {
  readonly delay: number;
  readonly iterations?: number;
}

export function registerTop(program: Command): void {
  nodeCommand(
    program,
    'top',
    'the VMs of the cluster, live: state, epoch, checkpoints by cause, resync; q ends it',
  )
    .option('-d, --delay <seconds>', 'between two looks', seconds, DELAY_SEC)
    .option('-n, --iterations <n>', 'how many looks, then the end (default: until q)', count)
    .action((options: Options) =>
      askNode('top', options, (node) => {
        const { stdin, stdout } = process;
        return stdin.isTTY && stdout.isTTY && !options.json ? live(node, options) : lines(node, options);
      }),
    );
}

async function look(node: NodeClient): Promise<Look> {
  const vms = await node.vms();
  return { atMs: Date.now(), vms };
}

async function lines(
  node: NodeClient,
  { delay: delaySec, iterations = Infinity, json }: Options,
): Promise<ExitCode> {
  let before: Look | null = null;
  for (let done = 0; done < iterations; done++) {
    if (done > 0) await delay(delaySec * 1000);
    const now = await look(node);
    if (json) printLine(JSON.stringify(now.vms));
    else for (const line of topPlain(now, before, { order: 'n', isReversed: false })) printLine(line);
    before = now;
  }
  return 0;
}

async function live(
  node: NodeClient,
  { delay: delaySec, iterations = Infinity }: Options,
): Promise<ExitCode> {
  let before: Look | null = null;
  let now: Look | null = null;
  let state: TopState = { order: 'n', isReversed: false, where: node.where, trouble: null, skip: 0 };
  const left = new AbortController();
  let wake = new AbortController();
  const pauses = new PauseHistory();
  const shown = { paint: painterFor(process.stdout), pauses, isUnicode: isUnicodeTerminal() };
  const draw = (): void => {
    const { columns, rows } = process.stdout;
    screen.draw(topLines(now, before, { ...state, ...shown, columns: columns || undefined }, rows || 24));
  };
  const onKey = (key: string): void => {
    const most = Math.max(0, (now?.vms.length ?? 0) - 1);
    if (key === 'q' || key === '\x03') left.abort();
    else if (key === ' ') wake.abort();
    else if (isOrderKey(key)) state = { ...state, order: key, isReversed: false, skip: 0 };
    else if (key === 'r') state = { ...state, isReversed: !state.isReversed };
    else if (key === 'up') state = { ...state, skip: Math.max(0, state.skip - 1) };
    else if (key === 'down') state = { ...state, skip: Math.min(most, state.skip + 1) };
    draw();
  };
  const screen = new Screen(process.stdout, onKey, () => draw());
  const gone = new Promise<void>((resolve) => left.signal.addEventListener('abort', () => resolve()));
  try {
    draw();
    for (let done = 0; done < iterations && !left.signal.aborted; done++) {
      // Whoever wants to leave does not wait for a node that is silent.
      const fresh = await Promise.race([gone, look(node).catch(troubleOf)]);
      if (typeof fresh === 'string') state = { ...state, trouble: fresh };
      else if (fresh) {
        // Rates need some time between two looks.
        before = now;
        now = fresh;
        pauses.note(fresh.vms);
        state = { ...state, trouble: null };
      }
      draw();
      wake = new AbortController();
      const pause = delay(delaySec * 1000, undefined, { signal: wake.signal }).catch(() => undefined);
      if (done + 1 < iterations) await Promise.race([gone, pause]);
    }
    return 0;
  } finally {
    wake.abort();
    screen.close();
  }
}

/** A node that is being restarted is waited for. */
function troubleOf(error: unknown): string {
  if (error instanceof ColoError) return messageOf(error);
  throw error;
}

function count(text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new InvalidArgumentError('expected a whole number from 1');
}
