/**
 * The C library's text of a failed socket call, for messages that read as QEMU's do ("Connection refused"). Node carries
 * libuv's wording, which differs in case and in a few cases in words.
 */
import { getSystemErrorMap } from 'node:util';
import { messageOf } from '../base/errors.ts';

/** Where glibc's wording is not libuv's with a capital letter. */
const GLIBC_TEXT: Readonly<Record<string, string>> = {
  EADDRNOTAVAIL: 'Cannot assign requested address',
  EHOSTUNREACH: 'No route to host',
  EISDIR: 'Is a directory',
  ENOTFOUND: 'Name or service not known',
  EAI_AGAIN: 'Temporary failure in name resolution',
  EPIPE: 'Broken pipe',
  ECONNRESET: 'Connection reset by peer',
  ENOENT: 'No such file or directory',
};

/** The `code` of a Node system error ('ECONNREFUSED'), or ''. */
export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : '';
}

/** What strerror(3) or gai_strerror(3) says about `error`; the error's own message when it has no errno. */
export function systemErrorText(error: unknown): string {
  // Node tries several addresses of one name and then reports all of their failures at once.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  const known = GLIBC_TEXT[codeOf(first)];
  if (known !== undefined) return known;
  const errno = (first as { errno?: unknown } | null)?.errno;
  const text = typeof errno === 'number' ? getSystemErrorMap().get(errno)?.[1] : undefined;
  return text === undefined ? messageOf(first) : text.charAt(0).toUpperCase() + text.slice(1);
}
