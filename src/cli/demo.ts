/** `colo demo`: the story of src/demo/, with the guest image built or found first. */
import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { runDemo } from '../demo/demo.ts';
import { closingTable, humanTeller, isClean, quietTeller } from '../demo/report.ts';
import type { Teller } from '../demo/report.ts';
import { buildGuest } from '../guest/build.ts';
import { ensureDebianFile } from '../guest/host-tools.ts';
import { preloadLibraries } from '../switch/libslirp.ts';

const LIBSLIRP = ['x86_64', 'aarch64'].map((arch) => `/usr/lib/${arch}-linux-gnu/libslirp.so.0`);

interface DemoFlags {
  json?: boolean;
  image?: string;
  memory: number;
  generations: number;
  protected: number;
}

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description(
      'two hosts on loopback, a real guest, and a client that must not notice when either copy dies',
    )
    .option('--json', 'one JSON object at the end instead of the story')
    .option('--image <file>', 'a guest image made by colo guest (default: built once and cached)')
    .option('--memory <MiB>', "the guest's RAM", integer(64, 2047), 128)
    .option(
      '--generations <n>',
      'how often the primary is killed before the secondary is',
      integer(1, 100),
      3,
    )
    .option('--protected <seconds>', 'how long the pair stays whole between two deaths', integer(1, 3600), 6)
    .action(async (flags: DemoFlags) => {
      process.exitCode = await demo(flags);
    });
}

async function demo(flags: DemoFlags): Promise<number> {
  const tell = flags.json ? quietTeller : humanTeller(process.stdout);
  const interrupted = new AbortController();
  process.once('SIGINT', () => interrupted.abort()).once('SIGTERM', () => interrupted.abort());
  const libslirp = await ensureDebianFile('libslirp0', LIBSLIRP);
  preloadLibraries(libslirp.libraryDirs);
  const report = await runDemo(
    {
      image: flags.image ?? (await cachedGuest(tell)),
      memoryMiB: flags.memory,
      generations: flags.generations,
      protectedSec: flags.protected,
      libslirp: libslirp.path,
      signal: interrupted.signal,
    },
    tell,
  );
  if (flags.json) process.stdout.write(`${JSON.stringify({ ...report, clean: isClean(report) })}\n`);
  else {
    process.stdout.write(`\n${closingTable(report)}\n\n`);
    process.stdout.write(isClean(report) ? 'Nothing was lost.\n' : 'Something was lost.\n');
  }
  return isClean(report) ? 0 : 1;
}

/** Built once; a half-built image never gets the name. */
async function cachedGuest(tell: Teller): Promise<string> {
  const folder = path.join(process.env['XDG_CACHE_HOME'] ?? path.join(os.homedir(), '.cache'), 'colo-ft');
  const image = path.join(folder, 'guest-1.qcow2');
  if (existsSync(image)) return image;
  await mkdir(folder, { recursive: true });
  const bar = tell.progress('guest');
  const building = path.join(folder, `building-${process.pid}.qcow2`);
  await buildGuest({ output: building, onProgress: ({ fraction }) => bar.update(fraction) });
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
