/** Disks in memory and small things that the tests of jobs, quorum and replication share. */
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { BlockNode } from '../../../src/block/node.ts';

export const KIB = 1024;
export const CLUSTER = 64 * KIB;

/** One recorded QMP event. */
export interface SeenEvent {
  readonly event: string;
  readonly data: Record<string, unknown>;
}

/** Collects events and lets a test wait for one. */
export class EventLog {
  readonly seen: SeenEvent[] = [];
  #waiters: (() => void)[] = [];

  readonly emit = (event: string, data: Record<string, unknown>): void => {
    this.seen.push({ event, data });
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  };

  /** `EVENT` or, for a change of state, the state: the sequence as one reads it. */
  get words(): string[] {
    return this.seen.map(({ event, data }) =>
      event === 'JOB_STATUS_CHANGE' ? String(data['status']) : event,
    );
  }

  of(event: string): Record<string, unknown>[] {
    return this.seen.filter((one) => one.event === event).map((one) => one.data);
  }

  async wait(test: () => boolean): Promise<void> {
    while (!test()) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }
}

export function memory(
  name: string,
  lengthBytes: number,
  options: {
    readonly backing?: BlockNode;
    readonly clusterBytes?: number;
    readonly wrap?: (driver: MemoryDriver) => BlockDriver;
  } = {},
): BlockNode {
  const driver = new MemoryDriver(lengthBytes, {
    clusterBytes: options.clusterBytes ?? CLUSTER,
    ...(options.backing ? { backing: options.backing } : {}),
  });
  return new BlockNode(name, options.wrap ? options.wrap(driver) : driver);
}

export async function bytesOf(
  node: BlockNode,
  offset = 0,
  length = node.lengthBytes - offset,
): Promise<Buffer> {
  const out = Buffer.alloc(length, 0xee);
  await node.read(offset, out);
  return out;
}

export function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

/** Lets everything that is ready to run do so, without waiting for time to pass. */
export async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Whether a promise has settled by now. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  await turns();
  let pending = true;
  const settle = (): void => {
    pending = false;
  };
  promise.then(settle, settle);
  await turns(1);
  return pending;
}
