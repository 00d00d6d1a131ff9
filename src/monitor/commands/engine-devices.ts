/**
 * query-block and query-blockstats of a machine whose devices an engine with a monitor of its own makes: what the device
 * is (its path, its tray, its write cache, its state after an error) that engine knows, what is in it we do. Devices
 * without a disk of ours are its alone: QEMU's own empty CD-ROM and floppy drives.
 */
import { ClosedError } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { EngineMonitor } from '../../engine/engine.ts';

const log = loggerFor('monitor');

type Members = Record<string, unknown>;

/** An element of our reply, and how the engine calls it: by the drive's id or the node's name. Null: it knows nothing of it. */
export interface OwnDevice {
  readonly name: string | null;
  readonly reply: Members;
}

/** In the engine's order; drives that no device shows come last. */
export async function withEngineDevices(
  monitor: EngineMonitor | null,
  own: readonly OwnDevice[],
): Promise<Members[]> {
  return merge(await ask(monitor, 'query-block'), own, (theirs, ours) => {
    const inserted = membersOf(ours['inserted']);
    const { writeback } = membersOf(membersOf(theirs['inserted'])['cache']);
    return { ...theirs, inserted: { ...inserted, cache: { ...membersOf(inserted['cache']), writeback } } };
  });
}

/** The counts are ours: the engine's begin anew with each process. */
export async function withEngineStats(
  monitor: EngineMonitor | null,
  own: readonly OwnDevice[],
): Promise<Members[]> {
  return merge(await ask(monitor, 'query-blockstats'), own, (theirs, ours) => {
    const { qdev } = theirs;
    return qdev === undefined ? ours : { ...ours, qdev };
  });
}

function merge(
  theirs: readonly Members[],
  own: readonly OwnDevice[],
  both: (theirs: Members, ours: Members) => Members,
): Members[] {
  const left = new Set(own);
  const merged = theirs.map((one) => {
    const name = one['device'] === '' ? nodeNameOf(one) : one['device'];
    const ours = own.find((other) => other.name !== null && other.name === name);
    if (!ours) return one;
    left.delete(ours);
    return both(one, ours.reply);
  });
  return [...merged, ...[...left].map(({ reply }) => reply)];
}

/** Between two processes of the engine there is none to ask; the devices are then told without its part. */
async function ask(monitor: EngineMonitor | null, command: string): Promise<readonly Members[]> {
  if (!monitor?.commands.has(command)) return [];
  try {
    const reply = await monitor.execute(command, {});
    return Array.isArray(reply) ? reply.map(membersOf) : [];
  } catch (error) {
    if (!(error instanceof ClosedError)) throw error;
    log.debug({ err: error }, `${command}: the engine cannot be asked now`);
    return [];
  }
}

function nodeNameOf(device: Members): unknown {
  return device['node-name'] ?? membersOf(device['inserted'])['node-name'];
}

function membersOf(value: unknown): Members {
  return typeof value === 'object' && value !== null ? (value as Members) : {};
}
