import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { TlsCredentialsSet, createTlsCredentials } from '../../src/base/tls/objects.ts';

const base = mkdtempSync(join(tmpdir(), 'tls-creds-'));
after(() => rmSync(base, { recursive: true }));
const SECRET = 'c0ffee'.repeat(10);

/** A folder with a keys.psk of this text. */
function keys(text: string | Uint8Array): string {
  const dir = mkdtempSync(join(base, 'psk-'));
  writeFileSync(join(dir, 'keys.psk'), text);
  return dir;
}

const good = keys(`qemu:${SECRET}\n# a comment\n\nalice:${SECRET}\r\n`);

describe('TLS credentials', () => {
  it("are refused in QEMU's words", () => {
    const empty = mkdtempSync(join(base, 'empty-'));
    const folder = mkdtempSync(join(base, 'folder-'));
    mkdirSync(join(folder, 'keys.psk'));
    const psk = 'tls-creds-psk';
    const cases: [string, Record<string, string>, string | RegExp][] = [
      [psk, {}, "Missing 'dir' property value"],
      ['tls-creds-x509', {}, "Missing 'dir' property value"],
      [psk, { dir: empty }, `Unable to access credentials ${empty}/keys.psk: No such file or directory`],
      [psk, { dir: folder }, `Unable to access credentials ${folder}/keys.psk: Not a regular file`],
      [
        'tls-creds-x509',
        { dir: empty, endpoint: 'server' },
        `Unable to access credentials ${empty}/ca-cert.pem: No such file or directory`,
      ],
      [psk, { dir: good, endpoint: 'bogus' }, "Parameter 'endpoint' does not accept value 'bogus'"],
      [psk, { dir: good, username: 'bob' }, `Username bob not found in PSK file ${good}/keys.psk`],
      [
        psk,
        { dir: good, endpoint: 'server', username: 'qemu' },
        'username should not be set when endpoint=server',
      ],
      [psk, { dir: good, 'verify-peer': 'maybe' }, "Parameter 'verify-peer' expects 'on' or 'off'"],
      [psk, { dir: good, foo: 'x' }, "Parameter 'foo' is unexpected"],
      [psk, { dir: good, priority: 'NORMAL' }, /priority is not supported/],
      ['tls-creds-x509', { dir: good, passwordid: 's' }, /passwordid is not supported/],
      ['tls-creds-anon', { dir: good }, /tls-creds-anon is not supported/],
    ];
    for (const [type, properties, message] of cases) {
      assert.throws(() => createTlsCredentials(type, properties), { name: 'ParameterError', message });
    }
  });

  it('are refused with the line that is wrong, and without what it says', () => {
    const long = `${'u'.repeat(200)}:${SECRET}`;
    for (const line of [
      `qemu ${SECRET}`,
      `:${SECRET}`,
      `qemu:${SECRET}0`,
      `qemu:${SECRET}zz`,
      'qemu:',
      long,
    ]) {
      const dir = keys(`alice:00\n${line}\n`);
      assert.throws(
        () => createTlsCredentials('tls-creds-psk', { dir }),
        (error: Error) =>
          error.message.includes('line 2 of the PSK file') && !inspect(error).includes('c0ffee'),
      );
    }
    const huge = keys(Buffer.alloc(2 ** 20 + 1, 0x61));
    assert.throws(() => createTlsCredentials('tls-creds-psk', { dir: huge }), {
      message: /The file is too large/,
    });
  });

  it('never show their keys', () => {
    for (const endpoint of ['client', 'server']) {
      const credentials = createTlsCredentials('tls-creds-psk', { dir: good, endpoint });
      const shown = [inspect(credentials, { depth: 9, showHidden: true }), JSON.stringify(credentials)];
      shown.push(JSON.stringify(credentials.properties()));
      for (const text of shown) assert.ok(!text.includes('c0ffee'), text);
      assert.equal(credentials.properties()['dir'], good);
    }
  });

  it('are found by id, for the end that they were made for', () => {
    const set = new TlsCredentialsSet();
    set.hasOtherObject = (id) => id === 'iothread0';
    const made = set.add('tls0', 'tls-creds-psk', { dir: good, endpoint: 'server' });
    assert.equal(set.find('tls0', 'server'), made);
    const wrong: [string, string][] = [
      ['tls0', 'Expected TLS credentials for a client endpoint'],
      ['tls1', "No TLS credentials with id 'tls1'"],
      ['iothread0', "Object with id 'iothread0' is not TLS credentials"],
    ];
    for (const [id, message] of wrong) assert.throws(() => set.find(id, 'client'), { message });
    assert.throws(() => set.add('tls0', 'tls-creds-psk', { dir: good }), {
      message: /duplicate property 'tls0'/,
    });
    set.delete('tls0');
    assert.throws(() => set.find('tls0', 'server'), { message: "No TLS credentials with id 'tls0'" });
  });
});
