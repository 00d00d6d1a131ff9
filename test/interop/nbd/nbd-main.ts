/** `colo nbd` and `colo img` alone, as a program to be run by tests. */
import { Command } from 'commander';
import { registerImg } from '../../../src/cli/img.ts';
import { registerNbd } from '../../../src/cli/nbd.ts';

const program = new Command('colo');
registerNbd(program);
registerImg(program);
await program.parseAsync();
