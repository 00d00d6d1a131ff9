// A host's certificate under QEMU's names is taken by the credentials of both directions.
import assert from 'node:assert/strict';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import { makeTlsFolder } from '../../../src/ha/tls-folder.ts';
import { makeCertificates } from '../../helpers/certificates.ts';

test('makeTlsFolder', async () => {
  const made = await makeCertificates();
  try {
    const folder = path.join(made.caOnly, 'below', 'tls');
    const file = (name: string): string => path.join(made.dir, name);
    const server = { ca: file('ca-cert.pem'), cert: file('server-cert.pem'), key: file('server-key.pem') };
    await makeTlsFolder(server, folder);
    createTlsCredentials('tls-creds-x509', { dir: folder, endpoint: 'server' });
    // A renewed certificate takes the old one's place.
    await makeTlsFolder({ ...server, cert: file('client-cert.pem'), key: file('client-key.pem') }, folder);
    createTlsCredentials('tls-creds-x509', { dir: folder, endpoint: 'client' });
    assert.equal((await readdir(folder)).length, 5);
    await rm(server.ca);
    assert.throws(() => createTlsCredentials('tls-creds-x509', { dir: folder, endpoint: 'client' }));
  } finally {
    await made.remove();
  }
});
