/** Commander's own tree as plain data: what completion, the manual page and the documents' tests go by. */
import type { Command, Option } from 'commander';

export interface CommandNode {
  /** `img create`; empty: the program. */
  readonly path: string;
  readonly description: string;
  readonly arguments: readonly ArgumentNode[];
  readonly options: readonly OptionNode[];
  readonly commands: readonly CommandNode[];
  /** Lines of example; only where the command's file gives them. */
  readonly examples: readonly string[];
}

export interface ArgumentNode {
  readonly name: string;
  readonly description: string;
  readonly isRequired: boolean;
  readonly isVariadic: boolean;
}

export interface OptionNode {
  readonly short: string | null;
  readonly long: string | null;
  /** `<dir>` without its brackets; null: a switch. */
  readonly value: string | null;
  readonly isValueRequired: boolean;
  readonly description: string;
  readonly choices: readonly string[];
}

export function treeOf(command: Command, path: readonly string[] = []): CommandNode {
  const help = command.createHelp();
  return {
    path: path.join(' '),
    description: command.description(),
    arguments: command.registeredArguments.map((argument) => ({
      name: argument.name(),
      description: argument.description,
      isRequired: argument.required,
      isVariadic: argument.variadic,
    })),
    options: help.visibleOptions(command).map(optionOf),
    commands: command.commands.map((below) => treeOf(below, [...path, below.name()])),
    examples: EXAMPLES[path.join(' ')] ?? [],
  };
}

function optionOf(option: Option): OptionNode {
  const value = /[<[]([^>\]]+)[>\]]/.exec(option.flags)?.[1] ?? null;
  return {
    short: option.short ?? null,
    long: option.long ?? null,
    value,
    isValueRequired: option.required,
    description: option.description,
    choices: option.argChoices ?? [],
  };
}

/** The program's commands, each before those below it. */
export function everyCommand(node: CommandNode): CommandNode[] {
  return [node, ...node.commands.flatMap(everyCommand)];
}

/** For the manual page. A test runs each command line's words through the tree. */
const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  up: ['colo up web1.yaml --wait'],
  check: ['colo check web1.yaml'],
  down: ['colo down web1', 'colo down web1 --purge --yes'],
  status: ['colo status --watch', 'colo status web1 --json'],
  hosts: ['colo hosts --node 10.0.0.2:7700 --tls-certificates /etc/colo/tls'],
  events: ['colo events --follow --vm web1'],
  logs: ['colo logs web1 --lines 20 --follow'],
  checkpoint: ['colo checkpoint web1'],
  failover: ['colo failover web1'],
  migrate: ['colo migrate web1 gamma'],
  pause: ['colo pause web1', 'colo pause --host beta'],
  resume: ['colo resume web1'],
  drain: ['colo drain beta'],
  undrain: ['colo undrain beta'],
  console: ['colo console web1', 'colo console web1 --copy secondary'],
  dashboard: ['colo dashboard'],
  qmp: ['colo qmp web1', 'colo qmp /run/vm.qmp query-status', 'colo qmp --hmp /run/vm.qmp'],
  top: ['colo top'],
  node: ['colo node --config /etc/colo/node.yaml'],
  completion: ['colo completion bash'],
  man: ['colo man', 'colo man --roff'],
};
