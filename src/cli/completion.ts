/**
 * `colo completion bash|zsh|fish`: a script for the shell, made of the commands' own tree, so that it never knows less than
 * the program. Names of VMs and hosts are asked of the node while one types.
 */
import { Argument, type Command } from 'commander';
import { everyCommand, treeOf, type ArgumentNode, type CommandNode, type OptionNode } from './tree.ts';

export type Shell = 'bash' | 'zsh' | 'fish';
export const SHELLS: readonly Shell[] = ['bash', 'zsh', 'fish'];

export function registerCompletion(program: Command): void {
  program
    .command('completion')
    .description('a completion script for a shell, on standard output')
    .addArgument(new Argument('<shell>', 'which shell').choices(SHELLS))
    .addHelpText(
      'after',
      `
bash:  source <(colo completion bash)
zsh:   colo completion zsh > "\${fpath[1]}/_colo"
fish:  colo completion fish > ~/.config/fish/completions/colo.fish`,
    )
    .action(async (shell: Shell) => {
      const { createProgram } = await import('./program.ts');
      process.stdout.write(completionFor(shell, treeOf(await createProgram())));
    });
}

export function completionFor(shell: Shell, tree: CommandNode): string {
  if (shell === 'bash') return bash(tree);
  return shell === 'zsh' ? zsh(tree) : fish(tree);
}

/** What an argument or an option's value is completed with. */
type Source =
  | { readonly kind: 'vms' | 'hosts' | 'files' | 'none' }
  | { readonly kind: 'words'; words: readonly string[] };

function sourceOfArgument({ name }: ArgumentNode): Source {
  if (name === 'vm') return { kind: 'vms' };
  if (name === 'host') return { kind: 'hosts' };
  if (name === 'shell') return { kind: 'words', words: SHELLS };
  return { kind: 'files' };
}

function sourceOfOption({ value, choices }: OptionNode): Source {
  if (choices.length > 0) return { kind: 'words', words: choices };
  if (value === 'vm') return { kind: 'vms' };
  if (value === 'host') return { kind: 'hosts' };
  return { kind: value !== null && /file|path|dir|image/i.test(value) ? 'files' : 'none' };
}

/** In single quotes. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const flagsOf = ({ short, long }: OptionNode): string[] => [short, long].filter((flag) => flag !== null);

const ASK_VMS = 'colo status --names 2>/dev/null';
const ASK_HOSTS = 'colo hosts --names 2>/dev/null';

function bash(tree: CommandNode): string {
  const commands = everyCommand(tree);
  const reply = (source: Source): string => {
    if (source.kind === 'files') return 'COMPREPLY=($(compgen -f -- "$cur"))';
    if (source.kind === 'none') return 'COMPREPLY=()';
    const words =
      source.kind === 'words'
        ? quoted(source.words.join(' '))
        : `"$(${source.kind === 'vms' ? ASK_VMS : ASK_HOSTS})"`;
    return `COMPREPLY=($(compgen -W ${words} -- "$cur"))`;
  };
  const steps = commands
    .filter(({ path }) => path !== '')
    .map(({ path }) => `      ${quoted(path)}) path=$step; at=0 ;;`);
  const values = commands.flatMap(({ path, options }) =>
    options
      .filter(({ value, isValueRequired }) => value !== null && isValueRequired)
      .map((option) => {
        const patterns = flagsOf(option).map((flag) => quoted(`${path} ${flag}`));
        return `    ${patterns.join(' | ')}) ${reply(sourceOfOption(option))}; return ;;`;
      }),
  );
  const bodies = commands.map((command) => {
    const flags = command.options.flatMap(flagsOf).join(' ');
    const below = command.commands.map(({ path }) => path.split(' ').at(-1)).join(' ');
    const places = command.arguments.map((argument, at) => {
      const pattern = argument.isVariadic ? '*' : String(at);
      return `          ${pattern}) ${reply(sourceOfArgument(argument))} ;;`;
    });
    return [
      `    ${quoted(command.path)})`,
      `      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W ${quoted(flags)} -- "$cur"))`,
      ...(below === '' ? [] : [`      else COMPREPLY=($(compgen -W ${quoted(below)} -- "$cur"))`]),
      ...(below !== '' || places.length === 0
        ? []
        : ['      else', '        case $at in', ...places, '        esac']),
      '      fi ;;',
    ].join('\n');
  });
  return `# bash completion of colo; source it.
_colo() {
  local cur=\${COMP_WORDS[COMP_CWORD]} path='' at=0 i word step
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    step=\${path:+$path }$word
    case $step in
${steps.join('\n')}
      *) [[ $word == -* ]] || at=$((at + 1)) ;;
    esac
  done
  case "$path \${COMP_WORDS[COMP_CWORD - 1]}" in
${values.join('\n')}
  esac
  case $path in
${bodies.join('\n')}
  esac
}
complete -o filenames -F _colo colo
`;
}

/** A function for each command, as zsh's own completions have it. */
function zsh(tree: CommandNode): string {
  const action = (source: Source): string => {
    if (source.kind === 'words') return `(${source.words.join(' ')})`;
    return { vms: '_colo_vms', hosts: '_colo_hosts', files: '_files', none: '' }[source.kind];
  };
  const escaped = (text: string): string => text.replace(/[[\]:\\]/g, '\\$&');
  const optionSpecs = (option: OptionNode): string[] =>
    flagsOf(option).map((flag) => {
      const value =
        option.value === null
          ? ''
          : `:${option.isValueRequired ? '' : ':'}${escaped(option.value)}:${action(sourceOfOption(option))}`;
      return quoted(`${flag}[${escaped(option.description)}]${value}`);
    });
  const functionName = (path: string): string => `_colo${path === '' ? '' : `_${path.replace(/\W/g, '_')}`}`;
  const functions = everyCommand(tree).map((command) => {
    const specs = command.options.flatMap(optionSpecs);
    const name = functionName(command.path);
    if (command.commands.length === 0) {
      for (const [at, argument] of command.arguments.entries()) {
        const place = argument.isVariadic ? '*' : `${at + 1}${argument.isRequired ? '' : ':'}`;
        specs.push(quoted(`${place}:${escaped(argument.name)}:${action(sourceOfArgument(argument))}`));
      }
      return `${name}() {\n  _arguments ${['-s', ...specs].join(' \\\n    ')}\n}`;
    }
    const word = (path: string): string => path.split(' ').at(-1) ?? '';
    const described = command.commands.map(({ path, description }) =>
      quoted(`${word(path)}:${escaped(description)}`),
    );
    const cases = command.commands.map(({ path }) => `      ${word(path)}) ${functionName(path)} ;;`);
    return `${name}() {
  local state line
  local -a below=(
    ${described.join('\n    ')}
  )
  _arguments -C ${[...specs, quoted('1: :->command'), quoted('*:: :->rest')].join(' \\\n    ')}
  case $state in
    command) _describe command below ;;
    rest) case $words[1] in
${cases.join('\n')}
    esac ;;
  esac
}`;
  });
  return `#compdef colo
_colo_vms() { local -a names=(\${(f)"$(${ASK_VMS})"}); _describe vm names }
_colo_hosts() { local -a names=(\${(f)"$(${ASK_HOSTS})"}); _describe host names }
${functions.join('\n')}
if [ "$funcstack[1]" = "_colo" ]; then _colo "$@"; else compdef _colo colo; fi
`;
}

function fish(tree: CommandNode): string {
  const text = (value: string): string => `'${value.replace(/['\\]/g, '\\$&')}'`;
  const argument = (source: Source): string => {
    if (source.kind === 'words') return ` -a ${text(source.words.join(' '))}`;
    if (source.kind === 'vms') return ` -a ${text(`(${ASK_VMS})`)}`;
    if (source.kind === 'hosts') return ` -a ${text(`(${ASK_HOSTS})`)}`;
    return source.kind === 'files' ? ' -F' : '';
  };
  const lines = everyCommand(tree).flatMap((command) => {
    const at = ` -n ${text(`__colo_at ${command.path}`.trim())}`;
    const options = command.options.map((option) => {
      const { short, long, value, isValueRequired, description } = option;
      const flags = `${short === null ? '' : ` -s ${short.slice(1)}`}${long === null ? '' : ` -l ${long.slice(2)}`}`;
      const needs =
        value !== null && isValueRequired
          ? ` -x${argument(sourceOfOption(option)).replace(' -F', ' -F -r')}`
          : '';
      return `complete -c colo${at}${flags}${needs.replace(' -x -F', '')} -d ${text(description)}`;
    });
    const below = command.commands.map(
      ({ path, description }) =>
        `complete -c colo${at} -f -a ${text(path.split(' ').at(-1) ?? '')} -d ${text(description)}`,
    );
    const first = command.arguments[0];
    const own = first ? [`complete -c colo${at}${argument(sourceOfArgument(first))}`] : [];
    return [...options, ...below, ...own];
  });
  const paths = everyCommand(tree)
    .filter(({ path }) => path !== '')
    .map(({ path }) => text(path));
  return `# fish completion of colo.
function __colo_at
    set -l path
    for word in (commandline -opc)[2..-1]
        if contains -- (string join ' ' $path $word) ${paths.join(' ')}
            set path $path $word
        end
    end
    test "$path" = "$argv"
end
complete -c colo -f
${lines.join('\n')}
`;
}
