/**
 * Reads the small files that credentials are made of. At once and synchronously, as an object is made in one step;
 * so what is not a plain file, or is too large to be one of these, is refused before it is read.
 */
import { readFileSync, statSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { ParameterError, messageOf } from '../errors.ts';

/** Far more than a chain of certificates or a list of keys needs. */
const MAX_CREDENTIAL_FILE_BYTES = 1024 * 1024;

/** The file's text. Throws ParameterError (`Unable to access credentials …`) when it cannot be had. */
export function readCredentialFile(path: string): string {
  const text = readCredentialFileIfThere(path);
  if (text === null)
    throw new ParameterError(`Unable to access credentials ${path}: No such file or directory`);
  return text;
}

/** As readCredentialFile, but null when there is no such file. */
export function readCredentialFileIfThere(path: string): string | null {
  let text: string;
  try {
    const stat = statSync(path);
    if (!stat.isFile()) throw new ParameterError('Not a regular file');
    if (stat.size > MAX_CREDENTIAL_FILE_BYTES) throw new ParameterError('The file is too large');
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    const { code, errno } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    const known = errno === undefined ? undefined : getSystemErrorMap().get(errno)?.[1];
    const why = known === undefined ? messageOf(cause) : known.charAt(0).toUpperCase() + known.slice(1);
    throw new ParameterError(`Unable to access credentials ${path}: ${why}`, { cause });
  }
  return text;
}
