/** Reading a host's apt sources, and deriving another release's from them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  deriveSources,
  formatSources,
  parseDeb822,
  parseSourceList,
} from '../../../src/guest/apt-sources.ts';

const LIST = `# a comment
deb http://mirror.example/debian/ trixie main contrib non-free-firmware # trailing
deb-src http://mirror.example/debian/ trixie main
deb [arch=amd64 signed-by=/etc/apt/keyrings/x.gpg check-valid-until=no] http://security.example/debian-security trixie-security main
deb http://mirror.example/debian trixie-updates main
deb http://mirror.example/debian trixie-backports main
deb cdrom:[Debian 13]/ trixie main
deb https://vendor.example/apt nodistro main
deb https://docker.example/linux/debian trixie stable
not a source line
`;

const SOURCES = `# written by the installer
Types: deb deb-src
URIs: http://mirror.example/debian
# http://snapshot.example/archive/debian/20250101T000000Z
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://a.example/debian-security
 http://b.example/debian-security
Suites: bookworm-security
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQENB

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
`;

describe('parseSourceList', () => {
  it('reads deb lines with and without options and skips everything else', () => {
    const sources = parseSourceList(LIST);
    assert.equal(sources.length, 7);
    assert.deepEqual(sources[0], {
      uri: 'http://mirror.example/debian/',
      suite: 'trixie',
      components: ['main', 'contrib', 'non-free-firmware'],
      options: {},
    });
    assert.deepEqual(sources[1]?.options, {
      arch: 'amd64',
      'signed-by': '/etc/apt/keyrings/x.gpg',
      'check-valid-until': 'no',
    });
  });
});

describe('parseDeb822', () => {
  it('expands URIs and suites, honours Enabled and Types, and survives comments and embedded keys', () => {
    const pairs = parseDeb822(SOURCES).map(({ uri, suite }) => `${uri} ${suite}`);
    assert.deepEqual(pairs, [
      'http://mirror.example/debian bookworm',
      'http://mirror.example/debian bookworm-updates',
      'http://a.example/debian-security bookworm-security',
      'http://b.example/debian-security bookworm-security',
    ]);
  });

  it('gives nothing for an empty file or one that is not deb822', () => {
    assert.deepEqual(parseDeb822(''), []);
    assert.deepEqual(parseDeb822('\0\u0001 garbage\n:::\n\n'), []);
  });
});

describe('deriveSources', () => {
  it('keeps the Debian mirrors with their suites renamed, and only main', () => {
    assert.deepEqual(deriveSources(parseSourceList(LIST), 'bookworm'), [
      { uri: 'http://mirror.example/debian', suite: 'bookworm', components: ['main'], options: {} },
      {
        uri: 'http://security.example/debian-security',
        suite: 'bookworm-security',
        components: ['main'],
        options: { 'check-valid-until': 'no' },
      },
      { uri: 'http://mirror.example/debian', suite: 'bookworm-updates', components: ['main'], options: {} },
    ]);
  });

  it('knows aliases, sid and the older form of the security suite', () => {
    const derive = (suite: string): string | undefined =>
      deriveSources(
        [{ uri: 'http://m.example/debian', suite, components: ['main'], options: {} }],
        'bookworm',
      )[0]?.suite;
    assert.equal(derive('stable'), 'bookworm');
    assert.equal(derive('sid'), 'bookworm');
    assert.equal(derive('buster/updates'), 'bookworm-security');
    assert.equal(derive('stable-updates'), 'bookworm-updates');
    assert.equal(derive('bookworm-pgdg'), undefined);
    assert.equal(derive('noble'), undefined);
    assert.equal(derive('/'), undefined);
  });

  it('names each place once', () => {
    const twice = parseDeb822(SOURCES).concat(parseDeb822(SOURCES));
    assert.equal(deriveSources(twice, 'bookworm').length, 4);
  });
});

describe('formatSources', () => {
  it('writes what parseDeb822 reads, bound to one keyring and architecture', () => {
    const derived = deriveSources(parseSourceList(LIST), 'bookworm');
    const text = formatSources(derived, '/keys/debian.gpg', 'i386');
    assert.equal(text.match(/^Signed-By: \/keys\/debian\.gpg$/gm)?.length, 3);
    assert.equal(text.match(/^Architectures: i386$/gm)?.length, 3);
    assert.equal(text.match(/^check-valid-until: no$/gm)?.length, 1);
    assert.deepEqual(deriveSources(parseDeb822(text), 'bookworm'), derived);
  });
});
