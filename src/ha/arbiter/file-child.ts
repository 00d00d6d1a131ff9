/**
 * The process in which the file arbiter touches its directory (file-calls.ts). One request at a time over Node's IPC
 * channel; ends when that closes. Whoever started it kills it when a call hangs: an NFS client's wait ends with the
 * process, which a thread's would not.
 */
import { ArbiterRecordError, ArbiterUnreachableError } from './arbiter.ts';
import type { Proposal, RecordId } from './arbiter.ts';
import { prepareDirectory, readIdentity, readRecord, swapRecord } from './file-calls.ts';
import { messageOf } from '../../base/errors.ts';

export type FileRequest =
  | { readonly verb: 'prepare' | 'identity'; readonly dir: string }
  | { readonly verb: 'read'; readonly dir: string; readonly vm: string }
  | {
      readonly verb: 'swap';
      readonly dir: string;
      readonly vm: string;
      readonly expected: RecordId | null;
      readonly next: Proposal;
    };

export type FileAnswer =
  | { readonly ok: true; readonly value: unknown }
  | {
      readonly ok: false;
      readonly kind: 'unreachable' | 'record' | 'other';
      readonly message: string;
      readonly mayHaveHappened: boolean;
    };

function run(request: FileRequest): unknown {
  switch (request.verb) {
    case 'prepare':
      return prepareDirectory(request.dir);
    case 'identity':
      return readIdentity(request.dir);
    case 'read':
      return readRecord(request.dir, request.vm);
    case 'swap':
      return swapRecord(request.dir, request.vm, request.expected, request.next);
  }
}

process.on('message', (request: FileRequest) => {
  let answer: FileAnswer;
  try {
    answer = { ok: true, value: run(request) };
  } catch (error) {
    const kind =
      error instanceof ArbiterUnreachableError
        ? 'unreachable'
        : error instanceof ArbiterRecordError
          ? 'record'
          : 'other';
    const mayHaveHappened = error instanceof ArbiterUnreachableError ? error.mayHaveHappened : true;
    answer = { ok: false, kind, message: messageOf(error), mayHaveHappened };
  }
  process.send?.(answer);
});
// Signals meant for the daemon's group are the daemon's to act on.
process.on('SIGINT', () => undefined);
process.on('disconnect', () => process.exit(0));
// file-process.ts waits for one.
process.send?.('listening');
