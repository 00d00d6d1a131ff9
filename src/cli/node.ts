/** `colo node`: the daemon of one host; src/node/ does the work. `colo arbiter prepare`: makes a directory an arbiter's. */
import type { Command } from 'commander';
import { FileArbiter } from '../ha/arbiter/index.ts';
import { readNodeFile } from '../ha/spec/node-file.ts';
import { runNode } from '../node/index.ts';
import { tellFailure } from './failure.ts';
import { guardProcess } from './guard-process.ts';

export function registerNode(program: Command): void {
  program
    .command('node')
    .description('the daemon of one host: starts VMs, watches, decides, fails over, resyncs')
    .requiredOption('--config <file>', 'what this host is (docs/node-file.md)')
    .option('--json', 'print the ready line as JSON')
    .action(async ({ config, json }: { config: string; json?: boolean }) => {
      guardProcess();
      const stop = new AbortController();
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
      try {
        const read = await readNodeFile(config);
        await runNode(read, stop.signal, (address) =>
          process.stdout.write(
            json
              ? `${JSON.stringify({ name: read.name, address })}\n`
              : `node '${read.name}' ready at ${address}\n`,
          ),
        );
        // A client that has not hung up keeps no daemon alive.
        process.exit(0);
      } catch (error) {
        tellFailure('node', error);
        process.exit();
      }
    });
  const arbiter = program.command('arbiter').description('the record that says who may go on alone');
  arbiter
    .command('prepare <directory>')
    .description('make a directory that all hosts see an arbiter, once (docs/arbiter.md)')
    .option('--json', 'print JSON')
    .action(async (directory: string, { json }: { json?: boolean }) => {
      try {
        const made = new FileArbiter(directory);
        await made.prepare();
        await made.close();
        if (json) process.stdout.write(`${JSON.stringify({ directory, isPrepared: true })}\n`);
      } catch (error) {
        tellFailure('arbiter prepare', error);
      }
    });
}
