#!/usr/bin/env node
/**
 * The `colo` program: one file a subcommand. `vm` takes QEMU's options and therefore parses its own arguments; what
 * the other commands need is not even loaded for it.
 */
import { messageOf } from '../base/errors.ts';

const VERSION = '0.1.0';

async function main(args: readonly string[]): Promise<void> {
  if (args[0] === 'vm') {
    const { runVm } = await import('./vm.ts');
    process.exitCode = await runVm('colo vm', args.slice(1));
    return;
  }
  const { Command } = await import('commander');
  const program = new Command('colo')
    .description('virtual machines that outlive their hosts (COLO fault tolerance)')
    .version(VERSION);
  program
    .command('vm [options...]')
    .description("one VM monitor process; takes QEMU's command line and speaks QMP")
    .helpOption(false)
    .allowUnknownOption();
  (await import('./demo.ts')).registerDemo(program);
  (await import('./guest.ts')).registerGuest(program);
  (await import('./img.ts')).registerImg(program);
  (await import('./nbd.ts')).registerNbd(program);
  (await import('./node.ts')).registerNode(program);
  (await import('./switch.ts')).registerSwitch(program);
  await program.parseAsync([...args], { from: 'user' });
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`colo: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
