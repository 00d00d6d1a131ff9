/** Host files: what is installed is used as it is, and what cannot be had is said so. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { HostToolError } from '../../../src/guest/errors.ts';
import { ensureDebianFile, ensureTool } from '../../../src/guest/host-tools.ts';

describe('ensureTool', () => {
  it('finds an installed program and needs nothing for it', async () => {
    const found = await ensureTool('sh');
    assert.match(found.path, /\/sh$/);
    assert.deepEqual(found.env, {});
  });

  it('names a program that nobody knows', async () => {
    await assert.rejects(ensureTool('no-such-program'), (error: unknown) => {
      return error instanceof HostToolError && error.message.startsWith('no-such-program is not installed');
    });
  });
});

describe('ensureDebianFile', () => {
  it('takes the first path that is there', async () => {
    assert.equal(
      (await ensureDebianFile('base-files', ['/no/such/file', '/etc/passwd'])).path,
      '/etc/passwd',
    );
  });

  it('names the package to install when it must stay offline', async () => {
    await assert.rejects(
      ensureDebianFile('some-package', '/no/such/file', { offline: true }),
      (error: unknown) => {
        return (
          error instanceof HostToolError &&
          /\/no\/such\/file \(Debian package some-package\)/.test(error.message)
        );
      },
    );
  });
});
