/** The arbiter that a configuration names, and credentials that cannot be had. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ParameterError } from '../../../src/base/errors.ts';
import { EtcdArbiter } from '../../../src/ha/arbiter/etcd-arbiter.ts';
import { FileArbiter } from '../../../src/ha/arbiter/file-arbiter.ts';
import { etcdOptions, openArbiter } from '../../../src/ha/arbiter/open-arbiter.ts';

describe('the arbiter that a configuration names', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'open-arbiter-'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  test('is a directory, or etcd', async () => {
    const file = await openArbiter({ kind: 'file', directory: dir });
    assert.ok(file instanceof FileArbiter);
    const etcd = await openArbiter({ kind: 'etcd', endpoints: ['http://127.0.0.1:1'] });
    assert.ok(etcd instanceof EtcdArbiter);
    await Promise.all([file.close(), etcd.close()]);
  });

  test('credentials come from files; a password that others can read is refused', async () => {
    const at = (name: string): string => path.join(dir, name);
    await writeFile(at('ca'), 'CA');
    await writeFile(at('password'), 'secret word\n', { mode: 0o600 });
    const config = {
      kind: 'etcd',
      endpoints: ['https://127.0.0.1:1'],
      tls: { ca: at('ca') },
      user: 'colo',
      passwordFile: at('password'),
    } as const;
    assert.deepEqual(await etcdOptions(config), {
      endpoints: ['https://127.0.0.1:1'],
      ca: 'CA',
      user: 'colo',
      password: 'secret word',
    });
    await chmod(at('password'), 0o644);
    await assert.rejects(openArbiter(config), (error) => {
      assert.ok(error instanceof ParameterError);
      assert.match(error.message, /others can read .*chmod 600/);
      return true;
    });
    await assert.rejects(
      openArbiter({ ...config, tls: { ca: at('none') } }),
      /arbiter.tls.ca: .*none cannot be read/,
    );
  });
});
