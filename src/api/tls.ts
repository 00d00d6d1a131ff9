/** The PEM files of a host's configuration, read once: the same certificate as a server and as a client. */
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { messageOf, ParameterError } from '../base/errors.ts';
import type { TlsFiles } from '../ha/spec/node-config.ts';

export interface TlsMaterial {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Throws ParameterError that names the file. */
export async function readTlsMaterial(files: TlsFiles): Promise<TlsMaterial> {
  const material = {
    ca: await readPem('tls.ca', files.ca),
    cert: await readPem('tls.cert', files.cert),
    key: await readPem('tls.key', files.key),
  };
  try {
    createSecureContext(material);
  } catch (cause) {
    throw new ParameterError(
      `tls: ${files.cert} and ${files.key} are not a certificate and its key: ${messageOf(cause)}`,
      { cause },
    );
  }
  return material;
}

async function readPem(what: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw new ParameterError(`${what}: ${file}: ${messageOf(cause)}`, { cause });
  }
}
