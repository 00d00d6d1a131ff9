/**
 * Certificates and keys for tests of TLS, made anew by openssl in a folder that goes away with the test: one CA with a
 * server (localhost, 127.0.0.1, ::1), a client, and a host that is both, another CA with the same, and pre-shared keys.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Certificates {
  /** Everything under QEMU's names: ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem. */
  readonly dir: string;
  /** ca-cert.pem alone: a client without a certificate. */
  readonly caOnly: string;
  /** All of another CA's. */
  readonly foreign: string;
  /** The other CA's client, who trusts the server all the same. */
  readonly impostor: string;
  /** keys.psk with the users qemu and alice. */
  readonly psk: string;
  /** keys.psk with other keys for the same users. */
  readonly otherPsk: string;
  remove(): Promise<void>;
}

export const PSK_HEX = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';

export async function makeCertificates(): Promise<Certificates> {
  const base = await mkdtemp(join(tmpdir(), 'tls-test-'));
  const folder = (name: string): string => join(base, name);
  const names = ['dir', 'caOnly', 'foreign', 'impostor', 'psk', 'otherPsk'] as const;
  for (const name of names) await mkdir(folder(name));
  await Promise.all([makeAll(folder('dir'), 'A CA'), makeAll(folder('foreign'), 'Another CA')]);
  await cp(join(folder('dir'), 'ca-cert.pem'), join(folder('caOnly'), 'ca-cert.pem'));
  await cp(join(folder('dir'), 'ca-cert.pem'), join(folder('impostor'), 'ca-cert.pem'));
  for (const file of ['client-cert.pem', 'client-key.pem']) {
    await cp(join(folder('foreign'), file), join(folder('impostor'), file));
  }
  await writeFile(join(folder('psk'), 'keys.psk'), `qemu:${PSK_HEX}\nalice:${'5a'.repeat(32)}\n`);
  await writeFile(
    join(folder('otherPsk'), 'keys.psk'),
    `qemu:${'77'.repeat(32)}\nalice:${'78'.repeat(32)}\n`,
  );
  const paths = Object.fromEntries(names.map((name) => [name, folder(name)]));
  return {
    ...(paths as Record<(typeof names)[number], string>),
    remove: () => rm(base, { recursive: true, force: true }),
  };
}

async function makeAll(dir: string, authority: string): Promise<void> {
  const ca = await openssl(
    dir,
    ...['req', '-x509', ...newKey('ca'), '-out', 'ca-cert.pem', '-days', '2', '-subj', `/CN=${authority}`],
    ...['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
  ).then(() => ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem']);
  for (const [serial, end] of ['server', 'client', 'host'].entries()) {
    const extensions = [
      'basicConstraints=critical,CA:FALSE',
      'keyUsage=critical,digitalSignature,keyEncipherment',
      `extendedKeyUsage=${end === 'host' ? 'serverAuth,clientAuth' : `${end}Auth`}`,
      'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1',
    ];
    await writeFile(join(dir, `${end}.ext`), extensions.join('\n'));
    await openssl(dir, 'req', ...newKey(end), '-out', `${end}.csr`, '-subj', `/CN=${end}`);
    await openssl(
      dir,
      ...['x509', '-req', '-in', `${end}.csr`, ...ca, '-set_serial', String(serial + 2), '-days', '2'],
      ...['-extfile', `${end}.ext`, '-out', `${end}-cert.pem`],
    );
  }
}

/** Puts the CA's list of revoked certificates into a folder of `makeCertificates`; `revoked` are files of it. */
export async function makeRevocationList(dir: string, ...revoked: string[]): Promise<void> {
  await writeFile(
    join(dir, 'ca.conf'),
    '[ca]\ndefault_ca=here\n[here]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n',
  );
  await writeFile(join(dir, 'index.txt'), '');
  const authority = ['ca', '-config', 'ca.conf', '-cert', 'ca-cert.pem', '-keyfile', 'ca-key.pem'];
  for (const file of revoked) await openssl(dir, ...authority, '-revoke', file);
  await openssl(dir, ...authority, '-gencrl', '-out', 'ca-crl.pem');
}

function newKey(name: string): string[] {
  return ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}-key.pem`];
}

async function openssl(cwd: string, ...args: string[]): Promise<void> {
  await run('openssl', args, { cwd, timeout: 30_000 });
}
