/**
 * `colo img`: disk images in qemu-img's words, output and exit codes (QEMU docs/tools/qemu-img.rst; asked of QEMU 7.2).
 * The command lines are here, the commands in img/, the formats in src/block/. Every option of these commands is there:
 * it does what it says, or says in its help that it changes nothing here, or is refused by name.
 */
import type { Command } from 'commander';
import { ParameterError } from '../base/errors.ts';
import { checkCommand } from './img/check.ts';
import { checkShared, outputForm } from './img/common.ts';
import type { ImageName } from './img/common.ts';
import { compareCommand } from './img/compare.ts';
import { convertCommand } from './img/convert.ts';
import { createCommand } from './img/create.ts';
import {
  CACHE_MODES,
  checkConvert,
  collect,
  format,
  imageOpts,
  json,
  jsonOutput,
  lists,
  nameOf,
  object,
  output,
  progress,
  quiet,
  share,
  shortFormat,
  sourceCache,
  withoutFormat,
} from './img/flags.ts';
import type { Flags } from './img/flags.ts';
import { infoCommand } from './img/info.ts';
import { asJsonInfo } from './img/json.ts';
import { finish, processIo } from './img/io.ts';
import type { ImgIo } from './img/io.ts';
import { mapCommand } from './img/map.ts';
import { lastIsSize, resizeCommand } from './img/resize.ts';

/** Adds the subcommand `img` to `program`. */
export function registerImg(program: Command, io: ImgIo = processIo): void {
  const img = program
    .command('img')
    .description("make, look at, check and convert disk images (qemu-img's words)");
  registerCreate(img, io);
  registerInfo(img, io);
  registerCheck(img, io);
  registerCompare(img, io);
  registerConvert(img, io);
  registerResize(img, io);
  registerMap(img, io);
}

function registerCreate(img: Command, io: ImgIo): void {
  img
    .command('create [file] [size]')
    .description('make an empty image')
    .option('-f <format>', 'raw or qcow2', 'raw')
    .option('-b <file>', 'backing file, relative to the new image')
    .option('-F <format>', "the backing file's format")
    .option('-o <options>', 'creation options, NAME=VALUE,…; -o help lists them', collect)
    .option('-u', 'do not look at the backing file')
    .addOption(json('what info tells of the new image'))
    .addOption(quiet())
    .addOption(object())
    .action((file: string | undefined, size: string | undefined, flags: Flags) =>
      finish(io, async () => {
        checkShared({ object: flags.object });
        const request = {
          format: flags.f ?? 'raw',
          size,
          backing: flags.b,
          backingFormat: flags.F,
          options: lists(flags.o),
          quiet: flags.q,
          unsafe: flags.u,
        };
        const made = file === undefined ? null : { text: file, format: request.format };
        return asJsonInfo(io, flags.json, made, (to) => createCommand(to, file, request));
      }),
    );
}

function registerInfo(img: Command, io: ImgIo): void {
  img
    .command('info <file>')
    .description('tell what an image is')
    .addOption(format())
    .addOption(output())
    .addOption(jsonOutput())
    .option('--backing-chain', 'its backing files too')
    .addOption(imageOpts())
    .addOption(object())
    .addOption(share())
    .action((file: string, flags: Flags) =>
      finish(io, async () =>
        infoCommand(io, nameOf(file, flags), {
          output: outputForm(flags.json ? 'json' : flags.output),
          chain: flags.backingChain,
        }),
      ),
    );
}

function registerCheck(img: Command, io: ImgIo): void {
  img
    .command('check <file>')
    .description('check the consistency of a qcow2 image (exit code 0 clean, 2 errors, 3 leaks)')
    .addOption(format())
    .addOption(output())
    .addOption(jsonOutput())
    .option('-r, --repair <what>', 'repair refcounts: leaks or all')
    .addOption(quiet())
    .addOption(sourceCache())
    .addOption(imageOpts())
    .addOption(object())
    .addOption(share())
    .action((file: string, flags: Flags) =>
      finish(io, async () => {
        const { repair } = flags;
        if (repair !== undefined && repair !== 'leaks' && repair !== 'all')
          throw new ParameterError(`Unknown option value for -r (expecting 'leaks' or 'all'): ${repair}`);
        return checkCommand(io, nameOf(file, flags), {
          output: outputForm(flags.json ? 'json' : flags.output),
          repair,
          quiet: flags.q,
        });
      }),
    );
}

function registerCompare(img: Command, io: ImgIo): void {
  img
    .command('compare <first> <second>')
    .description('compare the content of two images (exit code 0 same, 1 different, more: an error)')
    .addOption(shortFormat())
    .option('-F <format>', "the second image's format")
    .option('-s', 'strict: sizes and allocation have to agree')
    .addOption(json('the verdict'))
    .addOption(quiet())
    .addOption(progress())
    .addOption(sourceCache())
    .addOption(imageOpts())
    .addOption(object())
    .addOption(share())
    .action((first: string, second: string, flags: Flags) =>
      finish(
        io,
        async () =>
          compareCommand(io, nameOf(first, flags), nameOf(second, withoutFormat(flags), flags.F), {
            strict: flags.s,
            quiet: flags.q,
            progress: flags.p,
            json: flags.json,
          }),
        2,
      ),
    );
}

function registerConvert(img: Command, io: ImgIo): void {
  img
    .command('convert [files...]')
    .usage('[options] <source...> <target>')
    .description('copy the content of an image, or of several one behind the other, into a new one')
    .addOption(shortFormat())
    .option('-O <format>', 'format of the target: raw (default) or qcow2')
    .option('-o <options>', 'creation options of the target; -o help lists them', collect)
    .option('-B <file>', 'backing file of the target: only what the source itself holds is copied')
    .option('-F <format>', "the backing file's format")
    .option('-c', 'compress the clusters of the target (qcow2)')
    .option('-n', 'the target is there already')
    .option('--target-is-zero', 'and reads as zeros')
    .option('-S <size>', 'zeros of at least this length become holes; 0: everything is written (default: 4k)')
    .option('-m <number>', 'pieces in flight, 1 to 16 (default: 8)')
    .option('-W', 'write to the target out of order')
    .option('-r <bytes>', 'at most this many bytes in a second')
    .option('--salvage', 'what cannot be read becomes zeros, with a warning')
    .addOption(json('what info tells of the target'))
    .option('-C', 'offload the copying: changes nothing here')
    .option('-l <snapshot>', 'refused: internal snapshots cannot be read')
    .option('--bitmaps', 'refused: bitmaps are not copied')
    .option('--skip-broken-bitmaps', 'refused, as --bitmaps')
    .addOption(quiet())
    .addOption(progress())
    .option('-t <mode>', `cache mode for writing: ${CACHE_MODES}`)
    .addOption(sourceCache())
    .addOption(imageOpts())
    .option('--target-image-opts', "the target's name is a list of options (needs -n)")
    .addOption(object())
    .addOption(share())
    .action((files: readonly string[], flags: Flags) =>
      finish(io, async () => {
        checkConvert(flags);
        const sources = files.slice(0, -1).map((file) => nameOf(file, flags));
        const target = files.at(-1);
        const made = target === undefined ? null : targetOf(target, flags);
        return asJsonInfo(io, flags.json, made, (to) =>
          convertCommand(to, sources, target, {
            outputFormat: flags.O,
            options: lists(flags.o),
            backing: flags.B,
            backingFormat: flags.F,
            compress: flags.c,
            progress: flags.p,
            quiet: flags.q,
            existing: flags.n,
            targetIsZero: flags.targetIsZero,
            targetIsOptions: flags.targetImageOpts,
            targetCache: flags.t,
            sparse: flags.S,
            coroutines: flags.m,
            outOfOrder: flags.W,
            rate: flags.r,
            salvage: flags.salvage,
          }),
        );
      }),
    );
}

/** The target, to be looked at afterwards. */
function targetOf(text: string, flags: Flags): ImageName {
  return flags.targetImageOpts ? { text, isOptions: true } : { text, format: flags.O ?? 'raw' };
}

function registerResize(img: Command, io: ImgIo): void {
  const resize = img
    .command('resize <file> <size>')
    .description('change the virtual size: SIZE, +SIZE or -SIZE (the last argument)')
    .addOption(shortFormat())
    .option('--preallocation <mode>', 'place of what a raw image grows by: off, falloc or full')
    .option('--shrink', 'allow making it smaller')
    .addOption(json('what info tells of it afterwards'))
    .addOption(quiet())
    .addOption(imageOpts())
    .addOption(object())
    .action((file: string, size: string, flags: Flags) =>
      finish(io, async () =>
        asJsonInfo(io, flags.json, nameOf(file, flags), (to) =>
          resizeCommand(to, nameOf(file, flags), size, {
            shrink: flags.shrink,
            quiet: flags.q,
            preallocation: flags.preallocation,
          }),
        ),
      ),
    );
  lastIsSize(resize);
}

function registerMap(img: Command, io: ImgIo): void {
  img
    .command('map <file>')
    .description('list the extents of an image and its backing files')
    .addOption(format())
    .addOption(output())
    .addOption(jsonOutput())
    .option('-s, --start-offset <offset>', 'from this byte on')
    .option('-l, --max-length <length>', 'this many bytes at most')
    .addOption(imageOpts())
    .addOption(object())
    .addOption(share())
    .action((file: string, flags: Flags) =>
      finish(io, async () =>
        mapCommand(io, nameOf(file, flags), {
          output: outputForm(flags.json ? 'json' : flags.output),
          startOffset: flags.startOffset,
          maxLength: flags.maxLength,
        }),
      ),
    );
}
