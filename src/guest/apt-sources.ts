/**
 * Reads apt source descriptions (one-line `.list` and deb822 `.sources`) and derives from the host's own ones the
 * sources of another Debian release.
 *
 * It is text in, text out: it reads no files, knows no mirror by name and checks no signatures.
 */

/** One place packages come from: a URI, a suite on it and the components wanted. */
export interface AptSource {
  readonly uri: string;
  readonly suite: string;
  readonly components: readonly string[];
  /** Options that change how the index is fetched (`check-valid-until`, `by-hash`, ...), names in lower case. */
  readonly options: Readonly<Record<string, string>>;
}

/** Options worth carrying over; architectures, trust and keys are decided by whoever uses the derived sources. */
const KEPT_OPTIONS = new Set(['check-valid-until', 'check-date', 'by-hash', 'snapshot', 'valid-until-max']);

/** Names that mean a Debian release; other words (nodistro, noble, stable-foo) are somebody else's archive. */
const DEBIAN_RELEASES = new Set(
  (
    'buster bullseye bookworm trixie forky duke sid unstable testing stable oldstable oldoldstable ' +
    'experimental'
  ).split(' '),
);

/** Parses one-line style: `deb [opt=value ...] URI SUITE COMPONENT...`. Lines that do not fit are skipped. */
export function parseSourceList(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const raw of text.split('\n')) {
    const line = raw.replace(/#.*/, '').trim();
    const match = /^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)$/.exec(line);
    if (match === null) continue;
    const [, optionText = '', uri = '', suite = '', components = ''] = match;
    const options: Record<string, string> = {};
    for (const word of optionText.split(/\s+/)) {
      const at = word.indexOf('=');
      if (at > 0) options[word.slice(0, at).toLowerCase()] = word.slice(at + 1);
    }
    sources.push({ uri, suite, components: words(components), options });
  }
  return sources;
}

/** Parses deb822 style stanzas. Disabled stanzas and those for source packages alone are skipped. */
export function parseDeb822(text: string): AptSource[] {
  const sources: AptSource[] = [];
  const withoutComments = text
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .join('\n');
  for (const stanza of withoutComments.split(/\n[ \t]*\n/)) {
    const fields = parseFields(stanza);
    if (!words(fields['types'] ?? '').includes('deb')) continue;
    if (/^(no|false|off|0)$/i.test(fields['enabled'] ?? 'yes')) continue;
    for (const uri of words(fields['uris'] ?? '')) {
      for (const suite of words(fields['suites'] ?? '')) {
        sources.push({ uri, suite, components: words(fields['components'] ?? ''), options: fields });
      }
    }
  }
  return sources;
}

/**
 * The sources of Debian release `release` on the mirrors that `host` names.
 * `-updates` and `-security` are carried over; backports, third-party archives and install media are left out.
 */
export function deriveSources(host: readonly AptSource[], release: string): AptSource[] {
  const derived = new Map<string, AptSource>();
  for (const source of host) {
    if (source.uri.startsWith('cdrom:') || !source.components.includes('main')) continue;
    const suite = translateSuite(source.suite, release);
    if (suite === undefined) continue;
    const uri = source.uri.replace(/\/+$/, '');
    const options = Object.fromEntries(
      Object.entries(source.options).filter(([name]) => KEPT_OPTIONS.has(name)),
    );
    const key = `${uri} ${suite}`;
    if (!derived.has(key)) derived.set(key, { uri, suite, components: ['main'], options });
  }
  return [...derived.values()];
}

/** Writes sources as a deb822 file whose every stanza is checked against `keyring`. */
export function formatSources(sources: readonly AptSource[], keyring: string, architecture: string): string {
  return sources
    .map((source) => {
      const options = Object.entries(source.options).map(([name, value]) => `${name}: ${value}\n`);
      return (
        `Types: deb\nURIs: ${source.uri}\nSuites: ${source.suite}\nComponents: ${source.components.join(' ')}\n` +
        `Architectures: ${architecture}\nSigned-By: ${keyring}\n${options.join('')}`
      );
    })
    .join('\n');
}

/** Maps `trixie`, `trixie-updates`, `buster/updates`, `stable-security` to their form in `release`. */
function translateSuite(suite: string, release: string): string | undefined {
  const match = /^([a-z]+)(?:(-updates)|(-security|\/updates))?\/?$/.exec(suite);
  if (match === null || !DEBIAN_RELEASES.has(match[1] ?? '')) return undefined;
  if (match[3] !== undefined) return `${release}-security`;
  return `${release}${match[2] ?? ''}`;
}

function parseFields(stanza: string): Record<string, string> {
  const fields: Record<string, string> = {};
  let name = '';
  for (const line of stanza.split('\n')) {
    const head = /^([A-Za-z0-9-]+):\s*(.*)$/.exec(line);
    if (head !== null) {
      name = (head[1] ?? '').toLowerCase();
      fields[name] = (head[2] ?? '').trim();
    } else if (/^\s/.test(line) && name !== '') {
      fields[name] = `${fields[name] ?? ''} ${line.trim()}`;
    }
  }
  return fields;
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}
