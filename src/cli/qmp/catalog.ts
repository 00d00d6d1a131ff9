/**
 * What the QMP shell knows of its peer, for completion and `help`: asked once, when it is first needed. Names of devices,
 * nodes and jobs are asked each time, since they come and go.
 */
import type { QmpPeer } from './peer.ts';
import { typesOfSchema } from './argument-types.ts';
import type { Catalog, NamesOf } from './complete.ts';

/** A schema costs QEMU 200 KB; a peer that takes longer is not waited for. */
const ASK_MS = 5_000;
/** Names offered at once. */
const OFFERED_NAMES = 1000;

type Ask = (command: string, args?: Readonly<Record<string, unknown>>) => Promise<unknown>;

/** Null for whatever fails: a Tab is no reason to complain. */
function quietly(peer: QmpPeer): Ask {
  return async (command, args = {}) => {
    try {
      return await peer.execute(command, args, { timeoutMs: ASK_MS });
    } catch {
      return null;
    }
  };
}

export async function loadCatalog(peer: QmpPeer): Promise<Catalog> {
  const ask = quietly(peer);
  const [said, schema] = await Promise.all([ask('query-commands'), ask('query-qmp-schema')]);
  const types = typesOfSchema(schema);
  const own = types.size > 0 ? null : (await import('./own-commands.ts')).ownTypes();
  const commands = namesIn(said, 'name');
  return {
    commands: commands.length > 0 ? commands : [...types.keys()],
    argumentsOf: (command) => types.get(command) ?? own?.(command) ?? null,
  };
}

/** Commands of a human monitor, from its `help`: `info|i … -- what`. */
export async function hmpCommands(peer: QmpPeer): Promise<string[]> {
  const help = await quietly(peer)('human-monitor-command', { 'command-line': 'help' });
  if (typeof help !== 'string') return [];
  const heads = help.split('\n').flatMap((line) => /^([\w|-]+)(?= .*-- |\s*$)/.exec(line)?.[1] ?? []);
  return heads.flatMap((head) => head.split('|')).filter((name) => name !== '');
}

interface Source {
  /** `command` and the argument's last part, with a blank between. */
  readonly of: RegExp;
  readonly query: string;
  readonly args?: Readonly<Record<string, unknown>>;
  readonly member: string;
}

/** The first that fits. An `id` means another thing in each family of commands. */
const SOURCES: readonly Source[] = [
  { of: /^chardev-(remove|change|send-break) id$/, query: 'query-chardev', member: 'label' },
  { of: /^(netdev_add|chardev-add) .*chardev$/, query: 'query-chardev', member: 'label' },
  { of: /^(\S* )chardev$|^ringbuf-\S+ device$/, query: 'query-chardev', member: 'label' },
  { of: /^job-\S+ id$/, query: 'query-jobs', member: 'id' },
  { of: /^block-job-\S+ (device|id)$/, query: 'query-block-jobs', member: 'device' },
  { of: /^object-del id$/, query: 'qom-list', args: { path: '/objects' }, member: 'name' },
  { of: /^query-blockstats |^device_del id$|^block_resize device$/, query: 'query-block', member: 'device' },
  { of: /^nbd-server-remove name$/, query: 'query-block-exports', member: 'id' },
  { of: /^block-export-del id$/, query: 'query-block-exports', member: 'id' },
  {
    of: / (node-name|node|device|parent|base-node|top-node|target|replaces|file|backing)$/,
    query: 'query-named-block-nodes',
    member: 'node-name',
  },
];

export function namesOf(peer: QmpPeer): NamesOf {
  const ask = quietly(peer);
  return async (command, key) => {
    // The name of what is being made is new.
    if (command === 'blockdev-add' && key === 'node-name') return [];
    const source = SOURCES.find(({ of }) => of.test(`${command} ${key}`));
    if (!source) return [];
    const names = namesIn(await ask(source.query, source.args), source.member);
    return (source.query === 'qom-list' ? names.filter((name) => name !== 'type') : names).slice(
      0,
      OFFERED_NAMES,
    );
  };
}

function namesIn(reply: unknown, member: string): string[] {
  if (!Array.isArray(reply)) return [];
  const names = reply.map((one: unknown) => {
    return typeof one === 'object' && one !== null ? (one as Record<string, unknown>)[member] : null;
  });
  return names.filter((name): name is string => typeof name === 'string' && name !== '');
}

/** `help COMMAND`: a line an argument. */
export function describeArguments(command: string, catalog: Catalog): string {
  if (!catalog.commands.includes(command)) return `no command is called ${command}; Tab tells what there is`;
  const type = catalog.argumentsOf(command);
  if (!type) return `${command}: its arguments are not known here`;
  const lines = type.members({}).map(({ name, isOptional, type: { name: kind, values } }) => {
    const choice = kind === 'enum' ? values.join('|') : kind;
    return `  ${isOptional ? `[${name}]` : name}: ${choice}`;
  });
  return [command, ...(lines.length > 0 ? lines : ['  no arguments'])].join('\n');
}
