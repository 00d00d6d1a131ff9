/**
 * Finds host programs and files that come from Debian packages; one that is not installed is downloaded and unpacked
 * into the cache, without root, and used from there.
 *
 * It installs nothing on the host and never replaces what is installed.
 */
import { access, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { constants } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { AptRoot, defaultCacheDir } from './apt-root.ts';
import { HostToolError } from './errors.ts';
import { run } from './run.ts';

/** A file to use, and what must be in the environment of a program that is started from, or loads, it. */
export interface HostFile {
  readonly path: string;
  readonly env: Readonly<Record<string, string>>;
  /** Directories with the shared libraries that came along; empty if the host's own file is used. */
  readonly libraryDirs: readonly string[];
}

export interface HostToolOptions {
  readonly cacheDir?: string | undefined;
  /** Look only on the host. */
  readonly offline?: boolean | undefined;
  /** Use the Debian package even where the host has the file. */
  readonly ignoreHost?: boolean | undefined;
}

/** Package and paths (tried in turn, for merged and unmerged /usr) of the programs an image is built with. */
const TOOLS: Readonly<Record<string, { readonly packageName: string; readonly paths: readonly string[] }>> = {
  mformat: { packageName: 'mtools', paths: ['/usr/bin/mformat'] },
  mcopy: { packageName: 'mtools', paths: ['/usr/bin/mcopy'] },
  mattrib: { packageName: 'mtools', paths: ['/usr/bin/mattrib'] },
  syslinux: { packageName: 'syslinux', paths: ['/usr/bin/syslinux'] },
  mke2fs: { packageName: 'e2fsprogs', paths: ['/sbin/mke2fs', '/usr/sbin/mke2fs'] },
};

/** The program `name`: from PATH or /sbin if there, else from its Debian package. */
export async function ensureTool(name: string, options: HostToolOptions = {}): Promise<HostFile> {
  const directories = [
    ...(process.env['PATH'] ?? '').split(delimiter),
    '/usr/sbin',
    '/sbin',
    '/usr/bin',
    '/bin',
  ];
  for (const directory of options.ignoreHost === true ? [] : directories) {
    const path = join(directory, name);
    if (directory !== '' && (await isUsable(path, constants.X_OK))) return { path, env: {}, libraryDirs: [] };
  }
  const tool = TOOLS[name];
  if (tool === undefined)
    throw new HostToolError(`${name} is not installed on this host, and no package of it is known.`);
  return await fromPackage(tool.packageName, tool.paths, options);
}

/** The file at `pathInPackage` of Debian package `packageName`: the host's own, or one unpacked into the cache. */
export async function ensureDebianFile(
  packageName: string,
  pathInPackage: string | readonly string[],
  options: HostToolOptions = {},
): Promise<HostFile> {
  const paths = typeof pathInPackage === 'string' ? [pathInPackage] : pathInPackage;
  for (const path of options.ignoreHost === true ? [] : paths) {
    if (await isUsable(path, constants.R_OK)) return { path, env: {}, libraryDirs: [] };
  }
  return await fromPackage(packageName, paths, options);
}

/** SeaBIOS and its VGA BIOS, for engines that take them as buffers. */
export async function ensureSeabios(
  options: HostToolOptions = {},
): Promise<{ bios: string; vgaBios: string }> {
  const bios = await ensureDebianFile('seabios', '/usr/share/seabios/bios.bin', options);
  const vgaBios = await ensureDebianFile('seabios', '/usr/share/seabios/vgabios-stdvga.bin', options);
  return { bios: bios.path, vgaBios: vgaBios.path };
}

async function fromPackage(
  name: string,
  paths: readonly string[],
  options: HostToolOptions,
): Promise<HostFile> {
  const wanted = `${paths.join(' or ')} (Debian package ${name})`;
  if (options.offline === true) throw new HostToolError(`${wanted} is not on this host; install it.`);
  try {
    const tree = await unpackPackage(name, options.cacheDir ?? defaultCacheDir());
    for (const path of paths) {
      const file = join(tree.directory, path);
      if (await isUsable(file, constants.R_OK)) return hostFile(file, tree);
    }
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new HostToolError(`${wanted} is not on this host and could not be downloaded; install it. ${why}`, {
      cause,
    });
  }
  throw new HostToolError(`Debian's package ${name} has no ${paths.join(' or ')}.`);
}

interface PackageTree {
  readonly directory: string;
  readonly triplet: string;
}

function hostFile(path: string, { directory, triplet }: PackageTree): HostFile {
  const libraryDirs = ['/usr/lib', '/lib'].flatMap((lib) => [
    join(directory, lib, triplet),
    join(directory, lib),
  ]);
  const prepend = (variable: string, values: readonly string[]): string =>
    [...values, ...(process.env[variable] ?? '').split(delimiter).filter((part) => part !== '')].join(
      delimiter,
    );
  return {
    path,
    libraryDirs,
    // PATH too: syslinux calls mtools by name.
    env: { LD_LIBRARY_PATH: prepend('LD_LIBRARY_PATH', libraryDirs), PATH: prepend('PATH', [dirname(path)]) },
  };
}

/** Unpacks `name` and those libraries it needs that the host lacks into one tree of the cache. */
async function unpackPackage(name: string, cacheDir: string): Promise<PackageTree> {
  const architecture = (await run('dpkg', ['--print-architecture'])).trim();
  const triplet = (
    await run('dpkg-architecture', ['-qDEB_HOST_MULTIARCH']).catch(() => guessTriplet(architecture))
  ).trim();
  const directory = join(cacheDir, 'host', `${name}-${architecture}`);
  if (await isUsable(directory, constants.R_OK)) return { directory, triplet };
  const apt = new AptRoot({ cacheDir, release: await hostRelease(), architecture });
  await apt.update();
  const scratch = `${directory}.new-${process.pid}`;
  await rm(scratch, { recursive: true, force: true });
  await mkdir(scratch, { recursive: true });
  for (const packageName of await missingLibraries(apt, name)) {
    await run('dpkg-deb', ['-x', await apt.download(packageName), scratch]);
  }
  // The rename makes the tree appear whole or not at all; whoever lost a race uses the winner's.
  await rename(scratch, directory).catch(async (error: unknown) => {
    await rm(scratch, { recursive: true, force: true });
    if (!(await isUsable(directory, constants.R_OK))) throw error;
  });
  return { directory, triplet };
}

/** `name` and, recursively, its `lib*` dependencies that dpkg does not know as installed here. */
async function missingLibraries(apt: AptRoot, name: string): Promise<string[]> {
  const chosen = new Set<string>();
  const queue = [name];
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
    if (chosen.has(next)) continue;
    chosen.add(next);
    const { fields } = await apt.show(next);
    const depends = `${fields['Depends'] ?? ''},${fields['Pre-Depends'] ?? ''}`;
    for (const alternatives of depends.split(',')) {
      const dependency = alternatives
        .split('|')[0]!
        .trim()
        .replace(/[\s(:].*$/, '');
      if (/^(lib|mtools$|syslinux-common$)/.test(dependency) && !(await isInstalled(dependency)))
        queue.push(dependency);
    }
  }
  return [...chosen];
}

async function isInstalled(name: string): Promise<boolean> {
  const status = await run('dpkg-query', ['-W', '-f', '${db:Status-Status}', name]).catch(() => '');
  return status.startsWith('installed');
}

/** The host's Debian release by name: a program must match the host's C library. */
async function hostRelease(): Promise<string> {
  const osRelease = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const field = (name: string): string | undefined =>
    new RegExp(`^${name}="?([^"\\n]*)`, 'm').exec(osRelease)?.[1];
  const codename = field('VERSION_CODENAME');
  if (field('ID') === 'debian' && codename !== undefined) return codename;
  throw new HostToolError('This host does not say that it runs a Debian release.');
}

function guessTriplet(architecture: string): string {
  const known: Record<string, string> = {
    amd64: 'x86_64-linux-gnu',
    arm64: 'aarch64-linux-gnu',
    i386: 'i386-linux-gnu',
  };
  return known[architecture] ?? `${architecture}-linux-gnu`;
}

async function isUsable(path: string, mode: number): Promise<boolean> {
  return await access(path, mode).then(
    () => true,
    () => false,
  );
}
