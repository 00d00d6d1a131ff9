/**
 * The arbiter that a host's configuration names. Files with credentials are read once, here; a password only from a
 * file that nobody else can read.
 */
import { readFile, stat } from 'node:fs/promises';
import { ParameterError, messageOf } from '../../base/errors.ts';
import type { ArbiterConfig } from '../spec/node-config.ts';
import type { Arbiter } from './arbiter.ts';
import { EtcdArbiter } from './etcd-arbiter.ts';
import type { EtcdOptions } from './etcd-client.ts';
import { FileArbiter } from './file-arbiter.ts';

const MAX_CREDENTIAL_BYTES = 256 * 1024;

/** Asks nobody yet. Throws ParameterError for files that cannot be had. */
export async function openArbiter(config: ArbiterConfig): Promise<Arbiter> {
  if (config.kind === 'file') return new FileArbiter(config.directory);
  return new EtcdArbiter(await etcdOptions(config));
}

/** For everybody who speaks to the same etcd. */
export async function etcdOptions(config: Extract<ArbiterConfig, { kind: 'etcd' }>): Promise<EtcdOptions> {
  const { endpoints, tls, user, passwordFile } = config;
  return {
    endpoints,
    ...(tls && {
      ca: await readText('arbiter.tls.ca', tls.ca),
      ...(tls.cert !== undefined && { cert: await readText('arbiter.tls.cert', tls.cert) }),
      ...(tls.key !== undefined && { key: await readText('arbiter.tls.key', tls.key) }),
    }),
    ...(user !== undefined && { user }),
    ...(passwordFile !== undefined && { password: await readPassword(passwordFile) }),
  };
}

async function readPassword(file: string): Promise<string> {
  const text = await readText('arbiter.passwordFile', file);
  const { mode } = await stat(file);
  if ((mode & 0o077) !== 0) {
    throw new ParameterError(`arbiter.passwordFile: others can read ${file}; chmod 600 ${file}`);
  }
  return text.replace(/\r?\n$/, '');
}

async function readText(key: string, file: string): Promise<string> {
  try {
    const { size } = await stat(file);
    if (size > MAX_CREDENTIAL_BYTES) throw new ParameterError('it is too long to be one');
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new ParameterError(`${key}: ${file} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}
