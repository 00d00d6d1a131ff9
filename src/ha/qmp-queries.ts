/** What a pair's steps ask a monitor before they act, so that a step may be run again. Replies are QEMU's own. */
import { ColoError } from '../base/errors.ts';

/** What is needed of a QMP connection. */
export interface Qmp {
  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
}

/** Ids of all objects (-object, object-add). */
export async function objectIds(qmp: Qmp): Promise<ReadonlySet<string>> {
  const listed = await qmp.execute('qom-list', { path: '/objects' });
  return new Set(list(listed).flatMap(({ name, type }) => (isText(type, /^child</) ? [text(name)] : [])));
}

export interface ChardevState {
  readonly id: string;
  /** As QEMU has it: `disconnected:tcp:127.0.0.1:9003,server=on`. */
  readonly filename: string;
  /** There is a peer. */
  readonly isConnected: boolean;
  /** Somebody is attached to it. */
  readonly isUsed: boolean;
}

export async function chardevs(qmp: Qmp): Promise<ReadonlyMap<string, ChardevState>> {
  const listed = list(await qmp.execute('query-chardev'));
  return new Map(
    listed.map(({ label, filename, 'frontend-open': isUsed }) => [
      text(label),
      {
        ...{ id: text(label), filename: text(filename) },
        isConnected: !text(filename).startsWith('disconnected:'),
        isUsed: isUsed === true,
      },
    ]),
  );
}

export interface BlockJob {
  readonly id: string;
  readonly isReady: boolean;
  readonly isOver: boolean;
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly error: string | null;
}

export async function blockJobs(qmp: Qmp): Promise<ReadonlyMap<string, BlockJob>> {
  const listed = list(await qmp.execute('query-block-jobs'));
  return new Map(
    listed.map((job) => [
      text(job['device']),
      {
        id: text(job['device']),
        isReady: job['ready'] === true,
        isOver: job['status'] === 'concluded' || job['status'] === 'null',
        doneBytes: Number(job['offset'] ?? 0),
        totalBytes: Number(job['len'] ?? 0),
        error: typeof job['error'] === 'string' ? job['error'] : null,
      },
    ]),
  );
}

/** Names of the exports of its NBD server. */
export async function exportIds(qmp: Qmp): Promise<ReadonlySet<string>> {
  return new Set(list(await qmp.execute('query-block-exports')).map(({ id }) => text(id)));
}

export async function nodeNames(qmp: Qmp): Promise<ReadonlySet<string>> {
  const listed = list(await qmp.execute('query-named-block-nodes', { flat: true }));
  return new Set(listed.map((node) => text(node['node-name'])));
}

export interface ColoStatus {
  readonly mode: 'none' | 'primary' | 'secondary';
  readonly lastMode: 'none' | 'primary' | 'secondary';
  /** It was told to go on alone, and is about to. */
  readonly isLeaving: boolean;
}

export async function coloStatus(qmp: Qmp): Promise<ColoStatus> {
  const { mode, 'last-mode': lastMode, reason } = record(await qmp.execute('query-colo-status'));
  return { mode: coloMode(mode), lastMode: coloMode(lastMode), isLeaving: reason === 'processing' };
}

/** `status` of query-migrate; '' before any migration. */
export async function migrationStatus(qmp: Qmp): Promise<string> {
  return text(record(await qmp.execute('query-migrate'))['status'] ?? '');
}

export async function runState(qmp: Qmp): Promise<string> {
  return text(record(await qmp.execute('query-status'))['status']);
}

/** Names of the migration parameters that this process knows. */
export async function parameterNames(qmp: Qmp): Promise<ReadonlySet<string>> {
  return new Set(Object.keys(record(await qmp.execute('query-migrate-parameters'))));
}

function coloMode(value: unknown): ColoStatus['mode'] {
  return value === 'primary' || value === 'secondary' ? value : 'none';
}

function isText(value: unknown, pattern: RegExp): boolean {
  return typeof value === 'string' && pattern.test(value);
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null) return value as Readonly<Record<string, unknown>>;
  throw new ColoError(`The monitor answers ${JSON.stringify(value)} where an object is due`);
}

function list(value: unknown): readonly Readonly<Record<string, unknown>>[] {
  if (!Array.isArray(value)) {
    throw new ColoError(`The monitor answers ${JSON.stringify(value)} where a list is due`);
  }
  return value.map(record);
}

/** Throws with the monitor's text when it says anything. */
export async function hmp(qmp: Qmp, line: string): Promise<void> {
  const said = await qmp.execute('human-monitor-command', { 'command-line': line });
  if (typeof said === 'string' && said.trim() !== '') throw new ColoError(said.trim());
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
