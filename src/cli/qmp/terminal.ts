/**
 * The QMP shell on a terminal: Node's line editor with history and Tab, and events that come in between without spoiling
 * the line that is being typed.
 */
import readline from 'node:readline';
import { ClosedError, messageOf } from '../../base/errors.ts';
import { describeArguments, hmpCommands, loadCatalog, namesOf } from './catalog.ts';
import { complete, type Catalog, type Offer } from './complete.ts';
import { addToHistory, historyFile, KEPT_LINES, readHistory } from './history.ts';
import type { QmpPeer } from './peer.ts';
import { QmpShellSession, type SessionOptions } from './session.ts';

/** Offers listed at once. */
const SHOWN_OFFERS = 300;

/** Resolves with whether the connection lasted until the person left. */
export async function typeAtTerminal(
  peer: QmpPeer,
  options: Omit<SessionOptions, 'print'>,
): Promise<boolean> {
  const { stdin, stdout } = process;
  const file = historyFile();
  const before = await readHistory(file);
  const typed: string[] = [];
  let catalog: Promise<Catalog> | null = null;
  const known = (): Promise<Catalog> => (catalog ??= loadCatalog(peer));
  let humanCommands: Promise<string[]> | null = null;
  const names = namesOf(peer);

  const offer = async (line: string): Promise<Offer> => {
    if (!options.isHmp) return complete(line, await known(), names);
    const commands = await (humanCommands ??= hmpCommands(peer));
    return complete(line, { commands, argumentsOf: () => null }, () => Promise.resolve([]));
  };
  const editor = readline.createInterface({
    input: stdin,
    output: stdout,
    terminal: true,
    prompt: options.isHmp ? '(HMP) ' : '(QMP) ',
    history: [...before].reverse(),
    historySize: KEPT_LINES,
    removeHistoryDuplicates: false,
    completer: (line: string, done: (error: Error | null, result: [string[], string]) => void) => {
      offer(line).then(
        ({ words, word }) => done(null, [words.slice(0, SHOWN_OFFERS), word]),
        () => done(null, [[], line]),
      );
    },
  });
  let waiting: AbortController | null = null;
  const now = { isPrompting: false, isLasting: true };
  const ended = new AbortController();

  const print = (text: string): void => {
    if (!now.isPrompting) {
      stdout.write(`${text}\n`);
      return;
    }
    // Over the prompt and what has been typed, however many rows that takes; then both again.
    readline.moveCursor(stdout, 0, -editor.getCursorPos().rows);
    readline.cursorTo(stdout, 0);
    readline.clearScreenDown(stdout);
    stdout.write(`${text}\n`);
    editor.prompt(true);
  };
  const session = new QmpShellSession(peer, { ...options, print });
  const prompt = (): void => {
    now.isPrompting = true;
    editor.prompt();
  };

  const run = async (line: string): Promise<void> => {
    if (/^\s*(exit|quit\(\))\s*$/.test(line)) {
      editor.close();
      return;
    }
    const [, about] = options.isHmp ? [] : (/^\s*help\s*(\S*)\s*$/.exec(line) ?? []);
    if (about !== undefined) {
      const { commands } = await known();
      print(about === '' ? commands.join('\n') : describeArguments(about, await known()));
      return;
    }
    waiting = new AbortController();
    try {
      await session.line(line, waiting.signal);
    } catch (error) {
      // The end of the connection is told where it is noticed.
      if (waiting.signal.aborted) print('not waited for any longer; it may still be done');
      else if (!(error instanceof ClosedError)) print(messageOf(error));
    } finally {
      waiting = null;
    }
  };

  stdout.write(`Connected to ${peer.greeting}. Tab completes, help COMMAND tells arguments, Ctrl-D ends.\n`);
  peer.onEvent((event) => session.event(event));
  const over = new Promise<void>((resolve) => editor.once('close', resolve));
  editor.once('close', () => ended.abort());
  void peer.closed.then((reason) => {
    if (ended.signal.aborted) return;
    now.isLasting = false;
    print(messageOf(reason));
    editor.close();
  });
  // Lines that are pasted wait for those before them.
  let queue = Promise.resolve();
  let queued = 0;
  editor.on('line', (line) => {
    now.isPrompting = false;
    if (line.trim() !== '') typed.push(line.trimEnd());
    queued++;
    queue = queue.then(async () => {
      if (!ended.signal.aborted) await run(line);
      if (--queued === 0 && !ended.signal.aborted) prompt();
    });
  });
  editor.on('SIGINT', () => {
    if (waiting) waiting.abort();
    else {
      stdout.write('^C\n');
      editor.write(null, { ctrl: true, name: 'e' });
      editor.write(null, { ctrl: true, name: 'u' });
      prompt();
    }
  });
  prompt();
  await over;

  if (now.isPrompting && now.isLasting) stdout.write('\n');
  now.isPrompting = false;
  await addToHistory(file, typed.slice(-KEPT_LINES));
  return now.isLasting;
}
