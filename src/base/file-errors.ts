/** strerror's words for what a file system refuses, as QEMU's messages carry them (glibc; libuv words some otherwise). */
import { messageOf } from './errors.ts';

const TEXTS: Readonly<Record<string, string>> = {
  ENOENT: 'No such file or directory',
  EACCES: 'Permission denied',
  EISDIR: 'Is a directory',
  EROFS: 'Read-only file system',
  EPERM: 'Operation not permitted',
  ENOTDIR: 'Not a directory',
  ENOSPC: 'No space left on device',
  ENAMETOOLONG: 'File name too long',
};

/** The words for a failed open or create; undefined for anything else. */
export function fileErrorText(error: unknown): string | undefined {
  const code = (error as NodeJS.ErrnoException | null | undefined)?.code;
  return code === undefined ? undefined : TEXTS[code];
}

/** The same, or the error's own message. */
export function fileErrorMessage(error: unknown): string {
  return fileErrorText(error) ?? messageOf(error);
}
