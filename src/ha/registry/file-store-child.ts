/** The process in which the file registry touches its directory (file-store.ts): one request at a time over Node's IPC. */
import { messageOf } from '../../base/errors.ts';
import {
  readStates,
  removeHost,
  scan,
  setFlag,
  swapState,
  writeHost,
  type VersionedFolder,
} from './file-store.ts';

export type StoreRequest = { readonly dir: string } & (
  | { readonly verb: 'scan' }
  | { readonly verb: 'read'; readonly folder: VersionedFolder; readonly names: readonly string[] }
  | {
      readonly verb: 'swap';
      readonly folder: VersionedFolder;
      readonly name: string;
      readonly expected: number;
      readonly text: string | null;
    }
  | { readonly verb: 'write-host'; readonly name: string; readonly text: string }
  | { readonly verb: 'remove-host'; readonly name: string }
  | { readonly verb: 'flag'; readonly name: string; readonly isOn: boolean }
);

export type StoreAnswer =
  { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly message: string };

function run(request: StoreRequest): unknown {
  const { dir } = request;
  switch (request.verb) {
    case 'scan':
      return scan(dir);
    case 'read':
      return readStates(dir, request.folder, request.names);
    case 'swap':
      return swapState(dir, request.folder, request.name, request.expected, request.text);
    case 'write-host': {
      writeHost(dir, request.name, request.text);
      return;
    }
    case 'remove-host': {
      removeHost(dir, request.name);
      return;
    }
    case 'flag': {
      setFlag(dir, request.name, request.isOn);
      return;
    }
  }
}

process.on('message', (request: StoreRequest) => {
  let answer: StoreAnswer;
  try {
    answer = { ok: true, value: run(request) ?? null };
  } catch (error) {
    answer = { ok: false, message: messageOf(error) };
  }
  process.send?.(answer);
});
// Signals meant for the daemon's group are the daemon's to act on.
process.on('SIGINT', () => undefined);
process.on('disconnect', () => process.exit(0));
// file-process.ts waits for one.
process.send?.('listening');
