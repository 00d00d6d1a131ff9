/**
 * The tree of `colo`'s commands. A command's code is loaded when it is asked for: `colo status` need not know the demo.
 * Help, completion, the manual page and the tests ask for all of it. `vm` takes QEMU's options and parses its own.
 */
import { Command } from 'commander';
import { commonToAll } from './usage.ts';

export const VERSION = '0.1.0';

interface Group {
  readonly names: readonly string[];
  readonly load: () => Promise<(program: Command) => void>;
}

const GROUPS: readonly Group[] = [
  { names: ['up', 'check'], load: async () => (await import('./cluster/up.ts')).registerUp },
  { names: ['status', 'hosts'], load: async () => (await import('./cluster/status.ts')).registerStatus },
  { names: ['top'], load: async () => (await import('./cluster/top.ts')).registerTop },
  { names: ['events', 'logs'], load: async () => (await import('./cluster/streams.ts')).registerStreams },
  {
    names: ['down', 'checkpoint', 'failover', 'migrate', 'pause', 'resume', 'drain', 'undrain'],
    load: async () => (await import('./cluster/act.ts')).registerActions,
  },
  { names: ['node', 'arbiter'], load: async () => (await import('./node.ts')).registerNode },
  {
    names: ['dashboard'],
    load: async () => (await import('./cluster/dashboard.ts')).registerDashboard,
  },
  { names: ['console'], load: async () => (await import('./cluster/console.ts')).registerConsole },
  { names: ['qmp'], load: async () => (await import('./qmp.ts')).registerQmp },
  { names: ['demo'], load: async () => (await import('./demo.ts')).registerDemo },
  { names: ['guest'], load: async () => (await import('./guest.ts')).registerGuest },
  { names: ['img'], load: async () => (await import('./img.ts')).registerImg },
  { names: ['nbd'], load: async () => (await import('./nbd.ts')).registerNbd },
  { names: ['switch'], load: async () => (await import('./switch.ts')).registerSwitch },
  { names: ['completion'], load: async () => (await import('./completion.ts')).registerCompletion },
  { names: ['man'], load: async () => (await import('./man.ts')).registerMan },
];

/** With `only`, what is needed for that command; all of them when it is none of ours. */
export async function createProgram(only?: string): Promise<Command> {
  const program = new Command('colo')
    .description('virtual machines that outlive their hosts (COLO fault tolerance)')
    .version(VERSION);
  const wanted = GROUPS.filter(({ names }) => only !== undefined && names.includes(only));
  program
    .command('vm [options...]')
    .description("one VM monitor process; takes QEMU's command line and speaks QMP")
    .helpOption(false)
    .allowUnknownOption();
  for (const { load } of wanted.length > 0 ? wanted : GROUPS) (await load())(program);
  commonToAll(program);
  return program;
}
