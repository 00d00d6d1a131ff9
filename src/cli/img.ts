/**
 * `colo img`: disk images in qemu-img's words and exit codes (QEMU docs/tools/qemu-img.rst). The command lines are here,
 * the commands in img/, the formats in src/block/.
 */
import { Option } from 'commander';
import type { Command } from 'commander';
import { checkCommand } from './img/check.ts';
import { finish, parseSize } from './img/common.ts';
import { compareCommand } from './img/compare.ts';
import { convertCommand } from './img/convert.ts';
import { createCommand } from './img/create.ts';
import { infoCommand } from './img/info.ts';
import { mapCommand, resizeCommand } from './img/resize.ts';

interface Flags {
  readonly f?: string;
  readonly F?: string;
  readonly O?: string;
  readonly o?: string;
  readonly b?: string;
  readonly r?: 'leaks' | 'all';
  readonly q?: boolean;
  readonly p?: boolean;
  readonly n?: boolean;
  readonly s?: boolean;
  readonly u?: boolean;
  readonly U?: boolean;
  readonly shrink?: boolean;
  readonly output: 'human' | 'json';
}

const output = (): Option =>
  new Option('--output <form>', 'human or json').choices(['human', 'json']).default('human');
const share = (): Option => new Option('-U', 'open although somebody else writes the image');
const format = (): Option => new Option('-f <format>', 'raw or qcow2 (default: probed)');

/** Adds the subcommand `img` to `program`. */
export function registerImg(program: Command): void {
  const img = program
    .command('img')
    .description("make, look at, check and convert disk images (qemu-img's words)");

  img
    .command('create <file> [size]')
    .description('make an empty image')
    .option('-f <format>', 'raw or qcow2', 'raw')
    .option('-b <file>', 'backing file, relative to the new image')
    .option('-F <format>', "the backing file's format")
    .option('-o <options>', 'cluster_size=64k,compat=1.1,lazy_refcounts=off,refcount_bits=16')
    .option('-u', 'do not look at the backing file')
    .option('-q', 'say nothing')
    .action((file: string, size: string | undefined, flags: Flags) =>
      finish(() =>
        createCommand(file, size === undefined ? undefined : parseSize(size), {
          format: flags.f ?? 'raw',
          ...given({
            backing: flags.b,
            backingFormat: flags.F,
            options: flags.o,
            quiet: flags.q,
            unsafe: flags.u,
          }),
        }),
      ),
    );

  img
    .command('info <file>')
    .description('tell what an image is')
    .addOption(format())
    .addOption(output())
    .addOption(share())
    .action((file: string, flags: Flags) =>
      finish(() =>
        infoCommand(file, { output: flags.output, ...given({ format: flags.f, forceShare: flags.U }) }),
      ),
    );

  img
    .command('check <file>')
    .description('check the consistency of a qcow2 image (exit code 0 clean, 2 errors, 3 leaks)')
    .addOption(format())
    .addOption(output())
    .addOption(new Option('-r <what>', 'repair refcounts').choices(['leaks', 'all']))
    .addOption(share())
    .action((file: string, flags: Flags) =>
      finish(() =>
        checkCommand(file, {
          output: flags.output,
          ...given({ format: flags.f, repair: flags.r, forceShare: flags.U }),
        }),
      ),
    );

  img
    .command('compare <first> <second>')
    .description('compare the content of two images (exit code 0 same, 1 different)')
    .addOption(format())
    .option('-F <format>', "the second image's format")
    .option('-s', 'strict: sizes must agree')
    .option('-q', 'say nothing')
    .addOption(share())
    .action((first: string, second: string, flags: Flags) =>
      finish(
        () =>
          compareCommand(
            first,
            second,
            given({
              format: flags.f,
              secondFormat: flags.F,
              strict: flags.s,
              quiet: flags.q,
              forceShare: flags.U,
            }),
          ),
        2,
      ),
    );

  img
    .command('convert <source> <target>')
    .description('copy the content of an image into a new one')
    .addOption(format())
    .option('-O <format>', 'format of the target', 'raw')
    .option('-o <options>', 'creation options of the target')
    .option('-p', 'show progress')
    .option('-n', 'the target is there already')
    .addOption(share())
    .action((source: string, target: string, flags: Flags) =>
      finish(() =>
        convertCommand(source, target, {
          outputFormat: flags.O ?? 'raw',
          ...given({
            format: flags.f,
            options: flags.o,
            progress: flags.p,
            existing: flags.n,
            forceShare: flags.U,
          }),
        }),
      ),
    );

  img
    .command('resize <file> <size>')
    .description('change the virtual size: SIZE, +SIZE or -SIZE')
    .addOption(format())
    .option('--shrink', 'allow making it smaller')
    .option('-q', 'say nothing')
    .action((file: string, size: string, flags: Flags) =>
      finish(() =>
        resizeCommand(file, size, given({ format: flags.f, shrink: flags.shrink, quiet: flags.q })),
      ),
    );

  img
    .command('map <file>')
    .description('list the extents of an image and its backing files as JSON')
    .addOption(format())
    .addOption(new Option('--output <form>', 'json').choices(['json']).default('json'))
    .addOption(share())
    .action((file: string, flags: Flags) => finish(() => mapCommand(file, flags.f, flags.U ?? false)));
}

/** Without the members that are undefined. */
function given<T extends Record<string, unknown>>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
