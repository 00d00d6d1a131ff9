/**
 * `colo qmp`: a QMP shell in the manner of QEMU's qmp-shell, for any QMP monitor: ours, a stock QEMU's, or a VM's through
 * the host's daemon. With a command it executes that one; without, it reads lines, from a terminal with history and Tab.
 */
import readline from 'node:readline';
import { NodeUnreachableError } from '../api/errors.ts';
import type { Command } from 'commander';
import { askNode, nodeCommand, type ExitCode, type NodeOptions } from './cluster/connection.ts';
import { tellFailure } from './failure.ts';
import { presentation } from './presentation.ts';
import { parseWords } from './qmp/line.ts';
import { connectPeer, peerThrough, socketOf, type QmpPeer } from './qmp/peer.ts';
import { paintFor } from './qmp/print.ts';
import { QmpShellSession, type SessionOptions } from './qmp/session.ts';

interface QmpOptions extends NodeOptions {
  readonly hmp?: boolean;
  readonly verbose?: boolean;
}

export function registerQmp(program: Command): void {
  nodeCommand(
    program,
    'qmp <target> [words...]',
    "a QMP shell: TARGET is a monitor's socket, PATH or HOST:PORT, or a VM's name; with a command and key=value, that one only",
  )
    .option('-H, --hmp', 'lines of the human monitor')
    .option('-v, --verbose', 'show what is sent; with an error: its causes, and where it came from')
    .action(async (target: string, words: string[], options: QmpOptions) => {
      try {
        const address = socketOf(target);
        if (address === null) {
          await askNode('qmp', options, (node) => shell(peerThrough(node, target), words, options));
          return;
        }
        process.exitCode = await shell(await connectPeer(address), words, options);
      } catch (error) {
        const isNobody = error instanceof NodeUnreachableError;
        tellFailure(
          'qmp',
          error,
          isNobody ? { hint: '; is the monitor there (-qmp of colo vm and QEMU)?' } : {},
        );
      }
    });
}

async function shell(peer: QmpPeer, words: readonly string[], options: QmpOptions): Promise<ExitCode> {
  const common = {
    isHmp: options.hmp === true,
    isJson: options.json === true,
    isVerbose: options.verbose === true || presentation().isVerbose,
    paint: paintFor(process.stdout),
  };
  try {
    if (words.length > 0) return await once(peer, words, common);
    if (process.stdin.isTTY && process.stdout.isTTY) {
      const { typeAtTerminal } = await import('./qmp/terminal.ts');
      return (await typeAtTerminal(peer, common)) ? 0 : 6;
    }
    return await readLines(peer, common);
  } finally {
    peer.close();
  }
}

type Common = Omit<SessionOptions, 'print'>;

function printOut(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Errors stand where a shell expects them; as JSON, where the reply would. */
async function once(peer: QmpPeer, words: readonly string[], common: Common): Promise<ExitCode> {
  const session = new QmpShellSession(peer, {
    ...common,
    print: printOut,
    printError: (text) => void process.stderr.write(`colo qmp: ${text}\n`),
  });
  const isDone = common.isHmp ? await session.line(words.join(' ')) : await session.run(parseWords(words));
  return isDone ? 0 : 1;
}

/** Goes on after a failure, as a shell does; the status says whether there was one. */
async function readLines(peer: QmpPeer, common: Common): Promise<ExitCode> {
  const session = new QmpShellSession(peer, { ...common, print: printOut });
  peer.onEvent((event) => session.event(event));
  let isClean = true;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (!(await session.line(line))) isClean = false;
  }
  return isClean ? 0 : 1;
}
