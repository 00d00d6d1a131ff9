/** `colo events` and `colo logs`: lines that are there, and with -f those that come. */
import { InvalidArgumentError, type Command } from 'commander';
import type { HaEvent } from '../../ha/views.ts';
import { askNode, nodeCommand, printLine, type NodeOptions } from './connection.ts';
import { printable } from './text.ts';

interface EventsOptions extends NodeOptions {
  readonly follow?: boolean;
  readonly vm?: string;
  readonly after?: number;
}

interface LogsOptions extends NodeOptions {
  readonly follow?: boolean;
  readonly lines: number;
}

export function registerStreams(program: Command): void {
  nodeCommand(program, 'events', 'what has happened, newest last')
    .option('-f, --follow', 'go on with what happens')
    .option('--vm <vm>', 'of one VM only')
    .option('--after <number>', 'from the event after this one', integer(0, Number.MAX_SAFE_INTEGER))
    .action(async (options: EventsOptions) => {
      await askNode('events', options, async (node) => {
        const { follow = false, vm, after } = options;
        const query = { follow, ...(vm !== undefined && { vm }), ...(after !== undefined && { after }) };
        for await (const event of node.events(query)) {
          await written(options.json ? JSON.stringify(event) : eventLine(event));
        }
        return 0;
      });
    });
  nodeCommand(program, 'logs <vm>', "what a VM's process on its primary's host wrote to standard error")
    .option('-f, --follow', 'go on with what it writes')
    .option('-n, --lines <number>', 'how many of the last lines', integer(0, 100_000), 100)
    .action(async (vm: string, options: LogsOptions) => {
      await askNode('logs', options, async (node) => {
        const { lines, follow = false } = options;
        for await (const line of node.logs(vm, { lines, follow })) {
          await written(options.json ? JSON.stringify({ line }) : printable(line));
        }
        return 0;
      });
    });
}

/** `2026-01-02T03:04:05.678Z alpha web1 state syncing -> protecting: the disks are alike`. */
export function eventLine({ time, host, vm, type, from, to, reason }: HaEvent): string {
  const change = from !== undefined && to !== undefined ? ` ${from} -> ${to}` : '';
  return printable(`${time} ${host} ${vm ?? '-'} ${type}${change}: ${reason}`);
}

/** A slow reader of ours slows the node's stream down, and nothing is heaped up here. */
async function written(line: string): Promise<void> {
  if (process.stdout.writableNeedDrain) {
    await new Promise((resolve) => process.stdout.once('drain', resolve));
  }
  printLine(line);
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`expected a whole number from ${min} to ${max}`);
  };
}
