/**
 * A host's three PEM files under the names that QEMU's tls-creds-x509 looks for in one folder, for listening and for
 * connecting: what PairLinks.tlsFolder names. Links, so that a renewed certificate is the one that the next VM reads.
 */
import { mkdir, rename, rm, symlink } from 'node:fs/promises';
import path from 'node:path';
import type { TlsFiles } from './spec/node-config.ts';

/** May be called again, also while VMs read the folder. */
export async function makeTlsFolder({ ca, cert, key }: TlsFiles, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const names: Readonly<Record<string, string>> = {
    'ca-cert.pem': ca,
    'server-cert.pem': cert,
    'server-key.pem': key,
    'client-cert.pem': cert,
    'client-key.pem': key,
  };
  for (const [name, target] of Object.entries(names)) {
    const made = path.join(folder, `${name}.new`);
    await rm(made, { force: true });
    await symlink(path.resolve(target), made);
    await rename(made, path.join(folder, name));
  }
}
