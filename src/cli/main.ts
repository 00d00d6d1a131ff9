#!/usr/bin/env node
/**
 * The `colo` program: one file a subcommand, or a few that belong together (program.ts). `vm` takes QEMU's options and
 * therefore parses its own arguments; what the other commands need is not even loaded for it.
 */
async function main(args: readonly string[]): Promise<void> {
  if (args[0] === 'vm') {
    const { runVm } = await import('./vm.ts');
    process.exitCode = await runVm('colo vm', args.slice(1));
    return;
  }
  const { createProgram } = await import('./program.ts');
  await (await createProgram(args[0])).parseAsync([...args], { from: 'user' });
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  const { tellFailure } = await import('./failure.ts');
  const { presentation } = await import('./presentation.ts');
  tellFailure(presentation().command, error);
}
