/** `colo demo`: the story of src/demo/, with the guest image built or found first. */
import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { ColoError } from '../base/errors.ts';
import { acceleratorFor } from '../demo/accelerator.ts';
import { runDemo } from '../demo/demo.ts';
import type { PageOptions } from '../demo/demo.ts';
import { USUAL_PORT } from '../demo/page.ts';
import { EMBEDDED, stockQemu } from '../demo/platform.ts';
import type { Platform } from '../demo/platform.ts';
import { closingTable, humanTeller, isClean, quietTeller } from '../demo/report.ts';
import type { Teller } from '../demo/report.ts';
import { probeQemu } from '../engine/qemu/index.ts';
import { buildGuest } from '../guest/build.ts';
import { ensureDebianFile } from '../guest/host-tools.ts';
import { preloadLibraries } from '../switch/libslirp.ts';
import { VERSION } from './program.ts';

const LIBSLIRP = ['x86_64', 'aarch64'].map((arch) => `/usr/lib/${arch}-linux-gnu/libslirp.so.0`);

/** Less than that its kernel does not boot in. */
const LEAST_QEMU_MIB = 96;

/** As a shell tells of a program that SIGINT has ended. */
const INTERRUPTED = 130;

interface DemoFlags {
  json?: boolean;
  engine: Platform['engine'];
  qemu: string;
  vcpus: number;
  image?: string;
  memory?: number;
  generations: number;
  protected: number;
  handsOn?: boolean;
  page: boolean;
  port?: number;
}

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description(
      'two hosts on loopback, a real guest, and a client that must not notice when either copy dies',
    )
    .option('--json', 'one JSON object at the end instead of the story')
    .option('--image <file>', 'a guest image made by colo guest (default: built once and cached)')
    .addOption(
      new Option('--engine <name>', 'what executes the guest: the embedded engine, or a stock QEMU')
        .choices(['v86', 'qemu'])
        .default('v86'),
    )
    .option('--qemu <path>', 'which qemu-system-x86_64 to use', 'qemu-system-x86_64')
    .option('--vcpus <n>', "the guest's CPUs, on QEMU", integer(1, 255), 1)
    .option(
      '--memory <MiB>',
      "the guest's RAM (default: 128; on QEMU 256, and 96 at least)",
      integer(64, 2047),
    )
    .option(
      '--generations <n>',
      'how often the primary is killed before the secondary is',
      integer(1, 100),
      3,
    )
    .option('--protected <seconds>', 'how long the pair stays whole between two deaths', integer(1, 3600), 6)
    .option('--hands-on', 'nothing is killed but by you, at the page; until Ctrl+C')
    .option(
      '--port <n>',
      `of the page, on 127.0.0.1 (default: ${USUAL_PORT} if it is free)`,
      integer(0, 65535),
    )
    .option('--no-page', 'no page to watch it')
    .action(async (flags: DemoFlags) => {
      process.exitCode = await demo(flags);
    });
}

async function demo(flags: DemoFlags): Promise<number> {
  const tell = flags.json ? quietTeller : humanTeller(process.stdout);
  const interrupted = interruption(tell, flags.handsOn ?? false);
  const libslirp = await ensureDebianFile('libslirp0', LIBSLIRP);
  preloadLibraries(libslirp.libraryDirs);
  const { image, platform } = await prepare(flags, tell);
  const report = await runDemo(
    {
      image,
      memoryMiB: flags.memory ?? platform.memoryMiB,
      platform,
      generations: flags.handsOn ? 'hands-on' : flags.generations,
      protectedSec: flags.protected,
      libslirp: libslirp.path,
      ...(flags.page ? { page: pageOptions(flags, tell) } : {}),
      signal: interrupted,
    },
    tell,
  );
  if (flags.json) {
    const { accelerator } = platform;
    process.stdout.write(`${JSON.stringify({ accelerator, ...report, clean: isClean(report) })}\n`);
  } else {
    process.stdout.write(`\n${closingTable(report)}\n\n`);
    process.stdout.write(isClean(report) ? 'Nothing was lost.\n' : 'Something was lost.\n');
  }
  return isClean(report) ? 0 : 1;
}

function pageOptions({ json, port, handsOn }: DemoFlags, tell: Teller): PageOptions {
  const what = handsOn ? 'watch it, and kill, at' : 'watch it at';
  return {
    port,
    software: `colo-ft ${VERSION}`,
    onServed: (url) => {
      if (json) process.stderr.write(`${url}\n`);
      else tell.step(`${what} ${url}`);
    },
  };
}

/** The first Ctrl+C, or what else asks to end, ends the demo well; the second one at once. */
function interruption(tell: Teller, isHandsOn: boolean): AbortSignal {
  const interrupted = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (interrupted.signal.aborted) process.exit(INTERRUPTED);
      if (isHandsOn) tell.step('ending: the ledger is read back; once more to end without that');
      interrupted.abort();
    });
  }
  return interrupted.signal;
}

/** The guest's image and what runs it. Throws ColoError for what does not go together. */
async function prepare(flags: DemoFlags, tell: Teller): Promise<{ image: string; platform: Platform }> {
  const { vcpus, memory, qemu: binary } = flags;
  if (flags.engine === 'v86') {
    if (vcpus > 1) throw new ColoError('--vcpus: the embedded engine has one CPU; take --engine qemu');
    return { image: flags.image ?? (await cachedGuest(EMBEDDED.arch, tell)), platform: EMBEDDED };
  }
  if (memory !== undefined && memory < LEAST_QEMU_MIB) {
    throw new ColoError(`--memory: the guest for QEMU needs ${LEAST_QEMU_MIB} MiB at least`);
  }
  // Before anything is downloaded.
  const { version } = await probeQemu(binary);
  const image = flags.image ?? (await cachedGuest('amd64', tell));
  const { name, reason } = await acceleratorFor({ binary, image });
  tell.step(`QEMU ${version} with ${name.toUpperCase()} (${reason}), ${vcpus} vCPU${vcpus > 1 ? 's' : ''}`);
  return { image, platform: stockQemu({ accelerator: name, vcpus, binary }) };
}

/** Built once; a half-built image never gets the name. */
async function cachedGuest(arch: Platform['arch'], tell: Teller): Promise<string> {
  const folder = path.join(process.env['XDG_CACHE_HOME'] ?? path.join(os.homedir(), '.cache'), 'colo-ft');
  const image = path.join(folder, arch === 'i386' ? 'guest-1.qcow2' : `guest-${arch}-1.qcow2`);
  if (existsSync(image)) return image;
  await mkdir(folder, { recursive: true });
  const bar = tell.progress('guest');
  const building = path.join(folder, `building-${process.pid}.qcow2`);
  await buildGuest({ arch, output: building, onProgress: ({ fraction }) => bar.update(fraction) });
  bar.done();
  await rename(building, image);
  return image;
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`expected a number from ${min} to ${max}`);
  };
}
