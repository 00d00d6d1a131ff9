/**
 * A private apt: package lists and downloads of one Debian release and architecture in a directory of the user's own,
 * fetched from the mirrors the host itself uses and checked with Debian's archive keyring.
 *
 * It installs nothing, needs no root, and touches neither the host's package state nor its configuration; proxies and
 * credentials set for apt on the host keep working, since apt's own configuration is still read.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { deriveSources, formatSources, parseDeb822, parseSourceList, type AptSource } from './apt-sources.ts';
import { GuestBuildError } from './errors.ts';
import { withLock } from './lock.ts';
import { run } from './run.ts';

export interface AptRootOptions {
  readonly cacheDir: string;
  readonly release: string;
  readonly architecture: string;
  /** Use this mirror (of the main archive) and not those of the host. */
  readonly mirror?: string | undefined;
}

/** One package as the release's index has it. */
export interface Package {
  readonly name: string;
  readonly version: string;
  readonly fields: Readonly<Record<string, string>>;
}

const KEYRINGS = [
  '/usr/share/keyrings/debian-archive-keyring.gpg',
  '/usr/share/keyrings/debian-archive-keyring.pgp',
];
/** Lists younger than this are used as they are, so that a second build works at once and without a network. */
const LISTS_FRESH_MS = 24 * 3600 * 1000;
const POLL_MS = 200;

export class AptRoot {
  readonly #directory: string;
  readonly #options: AptRootOptions;
  readonly #known = new Map<string, Package>();

  constructor(options: AptRootOptions) {
    this.#options = options;
    this.#directory = join(options.cacheDir, 'apt', `${options.release}-${options.architecture}`);
  }

  /** Brings the package lists up to date. A part that fails is let go as long as the main archive can be read. */
  async update(): Promise<void> {
    for (const sub of ['state/lists/partial', 'cache/archives/partial', 'debs', 'empty']) {
      await mkdir(join(this.#directory, sub), { recursive: true });
    }
    await writeFile(join(this.#directory, 'state/status'), '', { flag: 'a' });
    const sources = formatSources(await this.#sources(), await findKeyring(), this.#options.architecture);
    const file = join(this.#directory, 'debian.sources');
    const stamp = join(this.#directory, 'updated');
    const unchanged = (await readFile(file, 'utf8').catch(() => '')) === sources;
    const age =
      Date.now() -
      (await stat(stamp)
        .then((found) => found.mtimeMs)
        .catch(() => 0));
    if (unchanged && age < LISTS_FRESH_MS) return;
    await withLock(join(this.#directory, 'lock'), async () => {
      await writeFile(file, sources);
      try {
        await this.#apt('apt-get', ['-q', 'update']);
      } catch (cause) {
        // One archive in the middle of its mirror run, or no network but lists of an earlier day: see what is there.
        if (
          await this.#find('libc6').then(
            (found) => found !== undefined,
            () => false,
          )
        )
          return;
        throw new GuestBuildError(
          `The package lists of Debian ${this.#options.release} could not be fetched from this host's own mirrors. ` +
            (cause instanceof Error ? cause.message : String(cause)),
          { cause },
        );
      }
      await writeFile(stamp, '');
    });
  }

  /** What the index says of `name`'s newest version. */
  async show(name: string): Promise<Package> {
    const found = await this.#find(name);
    if (found === undefined) {
      const { release, architecture } = this.#options;
      throw new GuestBuildError(
        `Debian ${release} (${architecture}) has no package ${name} on the configured mirrors.`,
      );
    }
    return found;
  }

  /** Downloads `name` unless it is there already, and gives the path of the .deb, its hash checked. */
  async download(name: string, onFraction?: (fraction: number) => void): Promise<string> {
    const { version, fields } = await this.show(name);
    const debs = join(this.#directory, 'debs');
    const file = join(debs, debFileName(name, version, fields['Architecture'] ?? this.#options.architecture));
    const size = Number(fields['Size']);
    return await withLock(join(this.#directory, 'lock'), async () => {
      if (await matches(file, fields['SHA256'])) return file;
      await rm(file, { force: true });
      const poll = setInterval(() => {
        void stat(file).then(
          (found) => onFraction?.(Math.min(1, found.size / size)),
          () => undefined,
        );
      }, POLL_MS);
      try {
        // apt checks what it fetched against the signed index.
        await this.#apt('apt-get', ['-q', 'download', `${name}=${version}`], debs);
      } finally {
        clearInterval(poll);
      }
      if (!(await matches(file, fields['SHA256'])))
        throw new GuestBuildError(`apt-get left no good ${file}.`);
      return file;
    });
  }

  async #find(name: string): Promise<Package | undefined> {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const text = await this.#apt('apt-cache', ['show', '--no-all-versions', name]).catch(() => '');
    const fields = Object.fromEntries(
      [...text.split('\n\n')[0]!.matchAll(/^([A-Za-z0-9-]+): (.*)$/gm)].map((match) => [
        match[1]!,
        match[2]!,
      ]),
    );
    const version = fields['Version'];
    if (version === undefined) return undefined;
    const found = { name, version, fields };
    this.#known.set(name, found);
    return found;
  }

  async #apt(program: string, args: readonly string[], cwd = this.#directory): Promise<string> {
    const settings: Record<string, string> = {
      'Dir::State': join(this.#directory, 'state'),
      'Dir::State::status': join(this.#directory, 'state/status'),
      'Dir::Cache': join(this.#directory, 'cache'),
      // Some hosts (container images) switch these off; without them apt parses all lists anew at each call.
      'Dir::Cache::pkgcache': 'pkgcache.bin',
      'Dir::Cache::srcpkgcache': 'srcpkgcache.bin',
      'Dir::Etc::sourcelist': join(this.#directory, 'debian.sources'),
      'Dir::Etc::sourceparts': join(this.#directory, 'empty'),
      'Dir::Etc::preferences': '/dev/null',
      'Dir::Etc::preferencesparts': join(this.#directory, 'empty'),
      'APT::Architecture': this.#options.architecture,
      'APT::Architectures': this.#options.architecture,
      // Root would otherwise fetch as the user _apt, who may not enter the cache directory.
      'APT::Sandbox::User': '',
      'Acquire::Languages': 'none',
      'Acquire::AllowInsecureRepositories': 'false',
      'APT::Get::AllowUnauthenticated': 'false',
    };
    const options = Object.entries(settings).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
    return await run(program, [...options, ...args], { cwd });
  }

  async #sources(): Promise<AptSource[]> {
    const { mirror, release } = this.#options;
    if (mirror !== undefined) return [{ uri: mirror, suite: release, components: ['main'], options: {} }];
    const derived = deriveSources(await readHostSources(), release);
    if (derived.length > 0) return derived;
    throw new GuestBuildError(
      'No Debian mirror is configured in /etc/apt on this host; name one with --mirror URI.',
    );
  }
}

/** What the host's own /etc/apt names, both styles. */
export async function readHostSources(etc = '/etc/apt'): Promise<AptSource[]> {
  const parts = join(etc, 'sources.list.d');
  const names = (await readdir(parts).catch(() => [])).sort().map((name) => join(parts, name));
  const sources: AptSource[] = [];
  for (const name of [join(etc, 'sources.list'), ...names]) {
    const parse = name.endsWith('.list')
      ? parseSourceList
      : name.endsWith('.sources')
        ? parseDeb822
        : undefined;
    if (parse !== undefined) sources.push(...parse(await readFile(name, 'utf8').catch(() => '')));
  }
  return sources;
}

/** Where downloads are kept unless the user says otherwise. */
export function defaultCacheDir(): string {
  const base = process.env['XDG_CACHE_HOME'];
  return join(base !== undefined && base !== '' ? base : join(homedir(), '.cache'), 'colo-ft');
}

/** apt's name for a downloaded package: an epoch's colon is written %3a. */
function debFileName(name: string, version: string, architecture: string): string {
  return `${name}_${version.replaceAll(':', '%3a')}_${architecture}.deb`;
}

async function matches(file: string, sha256: string | undefined): Promise<boolean> {
  const data = await readFile(file).catch(() => undefined);
  return data !== undefined && createHash('sha256').update(data).digest('hex') === sha256;
}

async function findKeyring(): Promise<string> {
  for (const path of KEYRINGS) {
    if (
      await stat(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  throw new GuestBuildError(
    `Debian's archive keyring is not on this host (${KEYRINGS.join(', ')}); install debian-archive-keyring.`,
  );
}
