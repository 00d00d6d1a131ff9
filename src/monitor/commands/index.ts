/** Every QMP command there is. */
import { z } from 'zod';
import type { VirtualMachine } from '../../vm/machine.ts';
import { CommandRegistry, command, int64, noArguments } from '../registry.ts';
import { runHmp } from '../hmp.ts';
import { forward, forwardedCommands } from '../forwarding.ts';
import { versionOf } from '../version.ts';
import { blockQueryCommands } from './block-query.ts';
import { bitmapCommands } from './bitmaps.ts';
import { blkdebugCommands } from './blkdebug.ts';
import { blockCommands } from './block.ts';
import { compareCommands } from './compare.ts';
import { engineCommands } from './engine.ts';
import { jobCommands } from './jobs.ts';
import { migrationCommands } from './migration.ts';
import { nbdCommands } from './nbd.ts';
import { objectCommands } from './objects.ts';
import { runCommands } from './run.ts';
import { startJobCommands } from './start-jobs.ts';
import { trafficCommands } from './traffic.ts';

const monitorCommands = [
  command(
    'human-monitor-command',
    z.strictObject({ 'command-line': z.string(), 'cpu-index': int64.optional() }),
    (vm, args) => runHmp(vm, args['command-line'], args['cpu-index']),
  ),
  command('query-version', noArguments, (vm) => versionOf(vm)),
  command('query-commands', noArguments, (vm) =>
    [...new Set([...ourCommands(vm), ...forwardedCommands(vm)])].sort().map((name) => ({ name })),
  ),
];

export const commands: CommandRegistry = new CommandRegistry(
  [
    bitmapCommands,
    blkdebugCommands,
    blockCommands,
    blockQueryCommands,
    compareCommands,
    jobCommands,
    migrationCommands,
    nbdCommands,
    objectCommands,
    runCommands,
    startJobCommands,
    trafficCommands,
    monitorCommands,
    engineCommands,
  ],
  forward,
);

/** Some are there with an engine only that has a monitor of its own. */
function ourCommands(vm: VirtualMachine): string[] {
  const missing = vm.engine?.monitor ? [] : engineCommands.map(({ name }) => name);
  return commands.names().filter((name) => !missing.includes(name));
}
