/** Every QMP command there is. */
import { z } from 'zod';
import { CommandRegistry, command, int64, noArguments } from '../registry.ts';
import { runHmp } from '../hmp.ts';
import { QEMU_VERSION } from '../version.ts';
import { blockQueryCommands } from './block-query.ts';
import { bitmapCommands } from './bitmaps.ts';
import { blkdebugCommands } from './blkdebug.ts';
import { blockCommands } from './block.ts';
import { compareCommands } from './compare.ts';
import { jobCommands } from './jobs.ts';
import { migrationCommands } from './migration.ts';
import { nbdCommands } from './nbd.ts';
import { objectCommands } from './objects.ts';
import { runCommands } from './run.ts';
import { startJobCommands } from './start-jobs.ts';

const monitorCommands = [
  command(
    'human-monitor-command',
    z.strictObject({ 'command-line': z.string(), 'cpu-index': int64.optional() }),
    (vm, args) => runHmp(vm, args['command-line']),
  ),
  command('query-version', noArguments, () => QEMU_VERSION),
  command('query-commands', noArguments, () => commands.names().map((name) => ({ name }))),
];

export const commands: CommandRegistry = new CommandRegistry([
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
  monitorCommands,
]);
