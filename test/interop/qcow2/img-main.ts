/** `colo img` alone, as a program for the tests. */
import { Command } from 'commander';
import { registerImg } from '../../../src/cli/img.ts';

const program = new Command('colo');
registerImg(program);
await program.parseAsync(['img', ...process.argv.slice(2)], { from: 'user' });
