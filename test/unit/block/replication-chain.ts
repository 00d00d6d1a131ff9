/** A secondary's chain in memory with a replication node above it, for the tests of replication. */
import assert from 'node:assert/strict';
import { ReplicationDriver } from '../../../src/block/drivers/replication.ts';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { CLUSTER, EventLog, memory } from './jobs-helpers.ts';

export type Layer = 'active' | 'hidden' | 'secondary';

export interface Chain {
  readonly secondary: BlockNode;
  readonly hidden: BlockNode;
  readonly active: BlockNode;
  readonly replication: ReplicationDriver;
  /** What the VM uses. */
  readonly top: BlockNode;
  readonly log: EventLog;
  /** What top-id names, if not `top`. */
  readonly findTop: { node: BlockNode | null };
  /** The three drivers without what `wrap` put around them. */
  readonly raw: Readonly<Record<Layer, BlockDriver>>;
}

export function secondaryChain(
  lengthBytes: number,
  wrap: (layer: Layer, driver: BlockDriver) => BlockDriver = (_layer, driver) => driver,
  clusterBytes: Partial<Record<Layer, number>> = {},
): Chain {
  const raw: Partial<Record<Layer, BlockDriver>> = {};
  const layer = (name: Layer, backing?: BlockNode): BlockNode =>
    memory(name, lengthBytes, {
      ...(backing ? { backing } : {}),
      clusterBytes: clusterBytes[name] ?? CLUSTER,
      wrap: (driver) => {
        raw[name] = driver;
        return wrap(name, driver);
      },
    });
  const secondary = layer('secondary');
  secondary.users.add('drive:parent0');
  const hidden = layer('hidden', secondary);
  const active = layer('active', hidden);
  const log = new EventLog();
  const findTop: { node: BlockNode | null } = { node: null };
  const replication = new ReplicationDriver({
    nodeName: 'childs0',
    mode: 'secondary',
    file: active,
    findTop: () => findTop.node ?? top,
    emit: log.emit,
  });
  const top: BlockNode = new BlockNode('colo-disk0', replication);
  const all = { active: raw.active, hidden: raw.hidden, secondary: raw.secondary };
  assert.ok(all.active && all.hidden && all.secondary);
  return {
    secondary,
    hidden,
    active,
    replication,
    top,
    log,
    findTop,
    raw: all as Record<Layer, BlockDriver>,
  };
}

export async function rawBytes(driver: BlockDriver): Promise<Buffer> {
  const out = Buffer.alloc(driver.lengthBytes);
  await driver.read(0, out);
  return out;
}
