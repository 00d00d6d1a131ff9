/**
 * The page's files, a handful, read once and kept in memory with what they are compressed to. Only names that were there
 * when they were read are served, so no path leads anywhere else. They hold nothing that is secret: who may see what they
 * show is asked when they open a WebSocket (door.ts).
 */
import { createHash } from 'node:crypto';
import { readFile, readdir, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import path from 'node:path';
import { promisify } from 'node:util';
import { constants, gzip } from 'node:zlib';
import { loggerFor } from '../base/logger.ts';

/** Of the bundle; a longer one is a mistake of whoever built it. */
export const MAX_FILES = 64;
/** Of one of them. */
export const MAX_FILE_BYTES = 8 * 1024 * 1024;

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
  '.webmanifest': 'application/manifest+json',
};

/**
 * Nothing but what this server serves, and nobody may show the page within another. Styles may stand in the page: the
 * terminal (xterm.js) writes its own. Scripts may not.
 */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
};

interface StaticFile {
  readonly type: string;
  readonly etag: string;
  readonly plain: Buffer;
  /** Null: it would be no smaller. */
  readonly gzipped: Buffer | null;
}

export class StaticFiles {
  readonly #files = new Map<string, StaticFile>();

  /** A folder that is not there makes a server without a page, which says how to make one. */
  static async read(folder: string): Promise<StaticFiles> {
    const files = new StaticFiles();
    const names = await readdir(folder).catch(() => [] as string[]);
    for (const name of names.sort().slice(0, MAX_FILES)) {
      const type = TYPES[path.extname(name)];
      const file = path.join(folder, name);
      const { size } = await stat(file);
      if (type === undefined || size > MAX_FILE_BYTES) continue;
      files.#files.set(`/${name}`, await toServe(type, await readFile(file)));
    }
    const index = files.#files.get('/index.html');
    if (index) files.#files.set('/', index);
    else loggerFor('dashboard').warn({ folder }, 'the page is not there: it is made by `npm run build`');
    return files;
  }

  /** Answers a request for a path without its query. */
  answer(request: IncomingMessage, response: ServerResponse, name: string): void {
    const file = this.#files.get(name);
    if (!file) {
      const isMissing = name === '/' && this.#files.size === 0;
      if (isMissing) answerText(response, 503, 'The page has not been built: run `npm run build`.\n');
      else answerText(response, 404, 'There is no such file.\n');
      return;
    }
    const headers = {
      ...SECURITY_HEADERS,
      'content-type': file.type,
      // Asked about each time: an upgrade of the program is seen at once, and what has not changed is not sent again.
      'cache-control': 'no-cache',
      etag: file.etag,
      vary: 'accept-encoding',
    };
    if (request.headers['if-none-match']?.split(/\s*,\s*/).includes(file.etag)) {
      response.writeHead(304, headers).end();
      return;
    }
    const isGzip = file.gzipped !== null && takesGzip(request.headers['accept-encoding']);
    const body = isGzip ? file.gzipped : file.plain;
    response.writeHead(200, {
      ...headers,
      ...(isGzip && { 'content-encoding': 'gzip' }),
      'content-length': body.length,
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  }
}

export function answerText(response: ServerResponse, status: number, text: string): void {
  response
    .writeHead(status, {
      ...SECURITY_HEADERS,
      'content-type': 'text/plain; charset=utf-8',
      'cache-control': 'no-store',
    })
    .end(text);
}

function takesGzip(accepted: string | undefined): boolean {
  return accepted !== undefined && /\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/.test(accepted);
}

async function toServe(type: string, plain: Buffer): Promise<StaticFile> {
  const gzipped = await promisify(gzip)(plain, { level: constants.Z_BEST_COMPRESSION });
  const etag = `"${createHash('sha256').update(plain).digest('base64url').slice(0, 22)}"`;
  return { type, etag, plain, gzipped: gzipped.length < plain.length ? gzipped : null };
}
