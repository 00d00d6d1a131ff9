/**
 * `colo console VM`: this terminal as the VM's first serial port. Every key goes to the guest, Ctrl-C too; Ctrl-] ends it,
 * as telnet's and virsh's. Without a terminal, standard input and output are piped, and its end is the end.
 */
import type { Duplex, Readable } from 'node:stream';
import { Option, type Command } from 'commander';
import { COPIES, type Copy } from '../../api/service.ts';
import { askNode, nodeCommand, type NodeOptions } from './connection.ts';

/** Ctrl-]. */
const ESCAPE = 0x1d;

export function registerConsole(program: Command): void {
  nodeCommand(program, 'console <vm>', "the VM's first serial port on this terminal; Ctrl-] ends it")
    .addOption(new Option('--copy <copy>', "which copy's; a secondary's is for looking").choices(COPIES))
    .action(async (vm: string, options: NodeOptions & { readonly copy?: Copy }) => {
      await askNode('console', options, async (node) => {
        const { stdin, stdout, stderr } = process;
        const console = await node.console(vm, options.copy);
        const isTerminal = stdin.isTTY;
        if (isTerminal) {
          const whom = options.copy === 'secondary' ? `${vm}'s secondary, to look at` : vm;
          stderr.write(`connected to ${whom}; Ctrl-] ends it\r\n`);
          stdin.setRawMode(true);
        }
        try {
          const by = await attach(console, stdin, stdout, isTerminal);
          if (isTerminal) stderr.write(`\r\n${by === 'guest' ? 'the console has been closed' : 'left'}\r\n`);
        } finally {
          if (isTerminal) stdin.setRawMode(false);
          stdin.destroy();
        }
        return 0;
      });
    });
}

/** Until the other end closes, or whoever types has had enough. */
export async function attach(
  console: Duplex,
  keys: Readable,
  screen: NodeJS.WritableStream,
  hasEscape: boolean,
): Promise<'guest' | 'person'> {
  return new Promise((resolve) => {
    let by: 'guest' | 'person' = 'guest';
    const leave = (): void => {
      by = 'person';
      console.destroy();
    };
    keys.on('data', (typed: Buffer) => {
      const at = hasEscape ? typed.indexOf(ESCAPE) : -1;
      const bytes = at < 0 ? typed : typed.subarray(0, at);
      if (bytes.length > 0 && !console.destroyed && !console.write(bytes)) {
        keys.pause();
        console.once('drain', () => keys.resume());
      }
      if (at >= 0) leave();
    });
    keys.once('end', () => console.end());
    console.on('error', () => console.destroy());
    console.pipe(screen, { end: false });
    console.once('close', () => {
      keys.pause();
      resolve(by);
    });
  });
}
