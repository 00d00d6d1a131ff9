/**
 * A side as it is kept over restarts of the daemon: in the run folder, since a side is one process's, and neither outlives
 * the host. Written whole and renamed; what cannot be read is as if it were not there, and its process is ended.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { loggerFor } from '../base/logger.ts';
import type { Phase, Side } from '../ha/side.ts';

const VERSION = 1;
const FILE = 'side.json';
const log = loggerFor('side');

const recordId = z.object({ epoch: z.number().int().nonnegative(), nonce: z.string().max(256) });
const PHASES = [
  ...['idle', 'reading', 'joining', 'secondary', 'primary'],
  ...['arming', 'pairing', 'asking', 'alone', 'stopping'],
] as [Phase, ...Phase[]];

const saved = z.object({
  version: z.literal(VERSION),
  side: z.object({
    id: z.string(),
    incarnation: z.string(),
    phase: z.enum(PHASES),
    known: recordId.nullable(),
    peer: z.string().nullable(),
    swap: z
      .object({
        expected: recordId,
        next: z.object({
          nonce: z.string(),
          holder: z.string().nullable(),
          members: z.array(z.string()),
          data: z.record(z.string(), z.string()),
        }),
        mayHaveHappened: z.boolean(),
        isPeerLost: z.boolean(),
        isFromDisk: z.boolean(),
      })
      .nullable(),
    isAnswered: z.boolean(),
    asked: z.number().int().nonnegative(),
  }),
});

/** `folder`: of this VM in the run folder. Null: no side is to be taken up again. Throws when the folder cannot be written. */
export function saveSide(folder: string, side: Side | null): void {
  const file = path.join(folder, FILE);
  if (side === null) {
    rmSync(file, { force: true });
    return;
  }
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeFileSync(`${file}.new`, JSON.stringify({ version: VERSION, side }), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

export function loadSide(folder: string): Side | null {
  const file = path.join(folder, FILE);
  try {
    return saved.parse(JSON.parse(readFileSync(file, 'utf8'))).side;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
      log.error({ err: error, file }, 'a side cannot be read');
    return null;
  }
}
