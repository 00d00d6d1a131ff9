import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ParameterError } from '../../../src/base/errors.ts';
import { hasProtocol, parseFilename } from '../../../src/block/probe.ts';

const inet = (host: string, port = '10809'): object => ({ type: 'inet', host, port });
const unix = (path: string): object => ({ type: 'unix', path });

describe('NBD URIs', () => {
  it('name a server, an export and how to protect the way there', () => {
    const cases: [string, object][] = [
      ['nbd://host', { server: inet('host') }],
      ['nbd://host/', { server: inet('host') }],
      ['nbd://host:1234/disk', { server: inet('host', '1234'), export: 'disk' }],
      ['nbd+tcp://host:/disk', { server: inet('host'), export: 'disk' }],
      ['nbd://[::1]:9/a', { server: inet('::1', '9'), export: 'a' }],
      ['nbd://[fe80::1%25eth0]/a', { server: inet('fe80::1%eth0'), export: 'a' }],
      ['nbd://host/a%2Fb%20%C3%A9+c', { server: inet('host'), export: 'a/b é+c' }],
      ['nbd://host//a/../b', { server: inet('host'), export: '/a/../b' }],
      ['nbd+unix:///?socket=/run/a+b%26c', { server: unix('/run/a+b&c') }],
      ['nbd+unix:///disk?socket=/s', { server: unix('/s'), export: 'disk' }],
      [
        'nbds://host/d?tls-certificates=/etc/pki&tls-hostname=other&tls-verify-peer=off',
        {
          server: inet('host'),
          export: 'd',
          'tls-certificates': '/etc/pki',
          'tls-hostname': 'other',
          'tls-verify-peer': 'off',
        },
      ],
      [
        'nbds://alice@[::1]/?tls-psk-file=/k',
        { server: inet('::1'), 'tls-psk-file': '/k', 'tls-username': 'alice' },
      ],
      [
        'nbds+unix:///d?socket=/s&tls-psk-file=/k&tls-username=bob',
        { server: unix('/s'), export: 'd', 'tls-psk-file': '/k', 'tls-username': 'bob' },
      ],
    ];
    for (const [uri, options] of cases) {
      assert.deepEqual(parseFilename(uri), { driver: 'nbd', ...options }, uri);
      assert.equal(hasProtocol(uri), true);
    }
  });

  it('are refused when they are not understood to the last word', () => {
    const cases: [string, RegExp][] = [
      ['nbds://host/d', /TLS needs credentials; add \?tls-certificates=DIR or \?tls-psk-file=FILE/],
      ['nbds:host:1', /Invalid NBD URI/],
      ['nbd://host/d?tls-certificates=/x', /tls-certificates needs nbds/],
      ['nbd://host/d?tls-certifcates=/x', /unknown parameter 'tls-certifcates'/],
      ['nbd://host/d?socket=/x', /unknown parameter 'socket'/],
      ['nbd:///d', /lacks a host/],
      ['nbd+unix:///d', /lacks \?socket=PATH/],
      ['nbd+unix://host/d?socket=/s', /has a host and a socket/],
      ['nbd+unix:///d?socket=/s&socket=/t', /gives 'socket' twice/],
      ['nbd://host/%zz', /malformed escape/],
      ['nbd://host/%ff', /malformed escape/],
      ['nbd://ho[st/d', /Invalid NBD URI/],
      ['nbd+vsock://1/d', /Invalid NBD URI/],
    ];
    for (const [uri, message] of cases) {
      assert.throws(() => parseFilename(uri), { name: 'ParameterError', message }, uri);
    }
  });

  it('are told from files that only look like them', () => {
    for (const name of ['nbds.img', 'nbd', 'nbds', './nbd://x', 'nbdx://y']) {
      assert.deepEqual(parseFilename(name), { driver: 'file', filename: name });
    }
  });

  it('bring back whatever was escaped into them, and fail politely on anything', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme' }),
        fc.string({ unit: 'grapheme', minLength: 1 }),
        (name, path) => {
          const uri = `nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURIComponent(path)}`;
          const options = parseFilename(uri);
          assert.equal(options['export'] ?? '', name);
          assert.deepEqual(options['server'], { type: 'unix', path });
        },
      ),
    );
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (rest) => {
        try {
          parseFilename(`nbd://${rest}`);
        } catch (error) {
          assert.ok(error instanceof ParameterError, String(error));
        }
      }),
    );
  });
});
