/**
 * `colo guest OUT`: builds the small guest image that the demo and the tests run.
 *
 * The command line alone is here; src/guest/build.ts does the work.
 */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { ARCHITECTURES } from '../guest/arch.ts';
import { buildGuest, DEFAULT_SIZE } from '../guest/build.ts';
import { stepBar } from './bar.ts';

interface GuestOptions {
  readonly arch: string;
  readonly size: number;
  readonly ip?: string;
  readonly gateway?: string;
  readonly ip6?: string;
  readonly gateway6?: string;
  readonly cacheDir?: string;
  readonly mirror?: string;
  readonly progress: boolean;
  readonly json?: boolean;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };

/** Adds the subcommand `guest` to `program`. */
export function registerGuest(program: Command): void {
  program
    .command('guest')
    .description('build a small bootable Debian 12 disk image with test services')
    .argument('<out>', 'image to write: .qcow2, or .raw/.img for a plain one')
    .addOption(
      new Option('--arch <architecture>', 'i386, which every engine runs, or amd64, for QEMU')
        .choices(ARCHITECTURES.map(({ name }) => name))
        .default('i386'),
    )
    .addOption(
      new Option('--size <size>', 'virtual size of the disk')
        .argParser(parseSize)
        .default(DEFAULT_SIZE, `${DEFAULT_SIZE / 2 ** 20}M`),
    )
    .option('--ip <address/length>', "address of the guest's first NIC (default: 10.0.2.15/24)")
    .option('--gateway <address>', 'its gateway (default: 10.0.2.2, or none if --ip is given)')
    .option('--ip6 <address/length>', 'its IPv6 address (default: no IPv6)')
    .option('--gateway6 <address>', 'its IPv6 gateway (default: none)')
    .option('--cache-dir <directory>', 'where packages are kept (default: ~/.cache/colo-ft)')
    .option('--mirror <uri>', "a Debian mirror to use in place of the host's own")
    .option('--no-progress', 'show no progress bar')
    .option('--json', 'print what was built as JSON')
    .action(async (out: string, options: GuestOptions) => {
      const { size, progress, json, ...rest } = options;
      const bar = progress ? stepBar(process.stderr) : null;
      try {
        await buildGuest({
          output: out,
          sizeBytes: size,
          ...rest,
          onProgress: ({ step, fraction }) => bar?.update(fraction, step),
        });
      } finally {
        bar?.stop();
      }
      const { arch } = options;
      if (json) process.stdout.write(`${JSON.stringify({ image: out, arch, sizeBytes: size })}\n`);
    });
}

/** `64M`, `1G`, `67108864`. */
function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kmg]?)(?:i?b)?$/i.exec(text);
  const unit = UNITS[match?.[2]?.toLowerCase() ?? ''];
  if (match === null || unit === undefined) throw new InvalidArgumentError('Give a size such as 64M or 1G.');
  return Math.floor(Number(match[1]) * unit);
}
