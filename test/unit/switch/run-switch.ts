/** `colo switch` alone, as a program, for the tests of its command line. */
import { Command } from 'commander';
import { registerSwitch } from '../../../src/cli/switch.ts';

const program = new Command('colo');
registerSwitch(program);
await program.parseAsync();
