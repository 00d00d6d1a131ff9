/**
 * Puts the guest's root file system together out of unpacked Debian packages and our own scripts, as one cpio archive.
 *
 * The guest runs from this archive alone; the disk's second partition holds data only. Nothing is fetched here.
 */
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Arch } from './arch.ts';
import { writeCpio, type CpioEntry } from './cpio.ts';
import { INITTAB, PROFILE, RC, RC_SHUTDOWN } from './guest-scripts.ts';
import { aliasIndex, dependencyIndex, selectModules } from './kernel-modules.ts';
import { services } from './services-script.ts';

/** Where the unpacked packages are, the kernel's version, and what to record of their origin. */
export interface RootInputs {
  readonly arch: Arch;
  readonly tree: string;
  readonly kernelVersion: string;
  /** One line a package (`name version`), kept in the guest as /etc/colo-guest. */
  readonly manifest: string;
}

/** busybox finds its own applets by itself; these names are for scripts and for people who type full paths. */
const APPLETS: readonly string[] = [
  ...[
    'bin/sh',
    'bin/cat',
    'bin/ls',
    'bin/mount',
    'bin/umount',
    'bin/ping',
    'bin/ip',
    'bin/ps',
    'bin/dmesg',
    'bin/vi',
  ],
  ...['sbin/init', 'sbin/modprobe', 'sbin/insmod', 'sbin/lsmod', 'sbin/poweroff', 'sbin/reboot', 'sbin/halt'],
  ...['usr/bin/top', 'usr/bin/wget', 'usr/bin/nc', 'usr/bin/setsid'],
];

/** perl, the libraries it is linked to, and the one module our program uses. */
const LIBRARIES: readonly string[] = ['libc.so.6', 'libm.so.6', 'libcrypt.so.1'];

/** Builds the archive the kernel unpacks as its root. */
export async function buildInitramfs({
  arch,
  tree,
  kernelVersion,
  manifest,
}: RootInputs): Promise<Uint8Array> {
  const { triplet, loader } = arch;
  const modulesDir = join('lib/modules', kernelVersion);
  const modules = await selectModules(join(tree, modulesDir), arch.modules);
  const copy = async (from: string, to: string, mode: number): Promise<CpioEntry> => ({
    kind: 'file',
    path: to,
    mode,
    data: await readFile(join(tree, from)),
  });
  const perlBase = `usr/lib/${triplet}/perl-base`;
  return writeCpio([
    ...['proc', 'sys', 'dev', 'data', 'root', 'tmp', 'run'].map((path): CpioEntry => ({
      kind: 'directory',
      path,
    })),
    // init's own output has somewhere to go before devtmpfs is mounted.
    { kind: 'char-device', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'char-device', path: 'dev/null', major: 1, minor: 3, mode: 0o666 },
    await copy('bin/busybox', 'bin/busybox', 0o755),
    ...APPLETS.map((path): CpioEntry => ({ kind: 'symlink', path, target: '/bin/busybox' })),
    { kind: 'symlink', path: 'init', target: '/bin/busybox' },
    await copy('usr/bin/perl', 'usr/bin/perl', 0o755),
    await copy(`lib/${triplet}/${basename(loader)}`, loader, 0o755),
    ...(await Promise.all(
      LIBRARIES.map((name) => copy(`lib/${triplet}/${name}`, `lib/${triplet}/${name}`, 0o755)),
    )),
    await copy(`${perlBase}/strict.pm`, `${perlBase}/strict.pm`, 0o644),
    text('etc/inittab', INITTAB),
    text('etc/rc', RC, 0o755),
    text('etc/rc.shutdown', RC_SHUTDOWN, 0o755),
    text('etc/profile', PROFILE),
    text('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
    text('etc/group', 'root:x:0:\n'),
    text('etc/hosts', '127.0.0.1 localhost colo-guest\n'),
    text('etc/colo-guest', manifest),
    text('srv/services.pl', services(arch)),
    ...modules.map((module): CpioEntry => ({
      kind: 'file',
      path: join(modulesDir, module.path),
      data: module.data,
    })),
    text(join(modulesDir, 'modules.dep'), dependencyIndex(modules)),
    text(join(modulesDir, 'modules.alias'), aliasIndex(modules)),
    text(join(modulesDir, 'modules.symbols'), ''),
  ]);
}

function text(path: string, content: string, mode = 0o644): CpioEntry {
  return { kind: 'file', path, mode, data: Buffer.from(content, 'utf8') };
}
