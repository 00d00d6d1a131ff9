/** `colo nbd` alone, as a program to be run by tests. */
import { Command } from 'commander';
import { registerNbd } from '../../../src/cli/nbd.ts';

const program = new Command('colo');
registerNbd(program);
await program.parseAsync();
