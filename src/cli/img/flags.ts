/** The options that the commands of `colo img` share, what they say in --help, and what they mean for an image's name. */
import { Option } from 'commander';
import { ParameterError } from '../../base/errors.ts';
import { checkCacheMode, checkShared } from './common.ts';
import type { ImageName } from './common.ts';
import { joinLists } from './create-options.ts';

/** Every option of every command. */
export interface Flags {
  readonly b?: string;
  readonly B?: string;
  readonly backingChain?: boolean;
  readonly bitmaps?: boolean;
  readonly c?: boolean;
  readonly C?: boolean;
  readonly f?: string;
  readonly F?: string;
  readonly forceShare?: boolean;
  readonly format?: string;
  readonly imageOpts?: boolean;
  readonly json?: boolean;
  readonly l?: string;
  readonly m?: string;
  readonly maxLength?: string;
  readonly n?: boolean;
  readonly o?: readonly string[];
  readonly O?: string;
  readonly object?: string;
  readonly output?: string;
  readonly p?: boolean;
  readonly preallocation?: string;
  readonly q?: boolean;
  readonly r?: string;
  readonly repair?: string;
  readonly s?: boolean;
  readonly S?: string;
  readonly salvage?: boolean;
  readonly shrink?: boolean;
  readonly skipBrokenBitmaps?: boolean;
  readonly startOffset?: string;
  readonly t?: string;
  readonly T?: string;
  readonly targetImageOpts?: boolean;
  readonly targetIsZero?: boolean;
  readonly u?: boolean;
  readonly W?: boolean;
}

export const collect = (value: string, before: readonly string[] = []): readonly string[] => [
  ...before,
  value,
];
export const lists = (of: readonly string[] | undefined): string | undefined =>
  of?.reduce<string | undefined>((before, more) => joinLists(more, before), undefined);

export const CACHE_MODES = 'writeback, writethrough or unsafe; none and directsync are refused';
export const output = (): Option => new Option('--output <form>', 'human or json (default: human)');
/** Of commands that have --output in qemu-img. */
export const jsonOutput = (): Option => new Option('--json', 'as --output json');
export const json = (what: string): Option => new Option('--json', `print ${what} as JSON`);
export const share = (): Option =>
  new Option('-U, --force-share', 'open although somebody else writes the image');
export const format = (): Option => new Option('-f, --format <format>', 'raw or qcow2 (default: probed)');
export const shortFormat = (): Option => new Option('-f <format>', 'raw or qcow2 (default: probed)');
export const imageOpts = (): Option =>
  new Option('--image-opts', 'the name is a list of options: driver=qcow2,file.filename=X');
export const object = (): Option => new Option('--object <object>', 'refused: there are no secrets here');
export const quiet = (): Option => new Option('-q', 'say nothing but errors');
export const progress = (): Option => new Option('-p', 'show progress (without: SIGUSR1 tells it)');
export const sourceCache = (): Option => new Option('-T <mode>', `cache mode for reading: ${CACHE_MODES}`);

/** An image as the options describe it. Throws ParameterError. */
export function nameOf(text: string, flags: Flags, said = flags.format ?? flags.f): ImageName {
  checkShared({ object: flags.object, imageOpts: flags.imageOpts ?? false, format: said });
  checkCacheMode(flags.T, true);
  return {
    text,
    format: said,
    isOptions: flags.imageOpts,
    forceShare: flags.forceShare,
    cache: flags.T,
  };
}

/** The second image of a comparison has a format of its own. */
export function withoutFormat(flags: Flags): Flags {
  return Object.fromEntries(Object.entries(flags).filter(([name]) => name !== 'f'));
}

/** What convert has in QEMU and not here. Throws ParameterError. */
export function checkConvert(flags: Flags): void {
  checkShared({ object: flags.object });
  if (flags.C && flags.S !== undefined)
    throw new ParameterError('Cannot enable copy offloading when -S is used');
  if (flags.C && flags.salvage) throw new ParameterError('Cannot use copy offloading in salvaging mode');
  if (flags.skipBrokenBitmaps && !flags.bitmaps)
    throw new ParameterError('Use of --skip-broken-bitmaps requires --bitmaps');
  if (flags.bitmaps)
    throw new ParameterError('--bitmaps is not supported: bitmaps are not copied; leave it out');
  if (flags.l !== undefined) {
    throw new ParameterError(
      '-l is not supported: internal snapshots cannot be read; use qemu-img convert -l, or qemu-img snapshot -a first',
    );
  }
}
