/**
 * Why a socket call failed, in the C library's words. (chardev/ has the same need and a wider table; the two folders
 * stand side by side and may not import each other.)
 */
import { getSystemErrorMap } from 'node:util';
import { messageOf } from '../base/errors.ts';

export function socketErrorText(error: unknown): string {
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  const { code, errno } = (first ?? {}) as { code?: unknown; errno?: unknown };
  if (code === 'EADDRNOTAVAIL') return 'Cannot assign requested address';
  if (code === 'ENOTFOUND') return 'Name or service not known';
  const text = typeof errno === 'number' ? getSystemErrorMap().get(errno)?.[1] : undefined;
  return text === undefined ? messageOf(first) : text.charAt(0).toUpperCase() + text.slice(1);
}
