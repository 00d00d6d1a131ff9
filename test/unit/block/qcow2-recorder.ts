/**
 * A disk that remembers every write, truncate and flush in the order in which they were carried out, so that a test can
 * build what a killed process or a power failure would have left at any moment; and a workload for the qcow2 driver on
 * top of it, with what its guest may then expect.
 *
 * Killed: a prefix of the log, the last write torn between sectors. Power failure: of the writes that had not ended
 * before a flush which has ended, any subset, each of them torn at will.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { checkQcow2 } from '../../../src/block/drivers/qcow2/check.ts';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import type { CreateQcow2Options } from '../../../src/block/drivers/qcow2/create.ts';
import { openQcow2, readQcow2Info } from '../../../src/block/drivers/qcow2/open.ts';
import { Qcow2Driver } from '../../../src/block/drivers/qcow2/qcow2.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { OptionReader } from '../../../src/block/options.ts';
import type { OpenContext } from '../../../src/block/registry.ts';
import { Dice } from '../../helpers/dice.ts';

export const SECTOR = 512;

export type LogEntry =
  | { readonly kind: 'write'; readonly offset: number; readonly bytes: Buffer }
  | { readonly kind: 'truncate'; readonly length: number }
  /** Entries that it has made stable. */
  | { readonly kind: 'flush'; readonly covers: ReadonlySet<number> };

/** A disk in memory. */
export class BufferDisk implements BlockDriver {
  readonly driverName = 'file';
  readonly readOnly = false;
  bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get lengthBytes(): number {
    return this.bytes.byteLength;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return new Map();
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    target.set(this.bytes.subarray(offset, offset + target.byteLength));
    return Promise.resolve();
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    this.bytes.set(source, offset);
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  truncate(lengthBytes: number): Promise<void> {
    this.bytes = resized(this.bytes, lengthBytes);
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function resized(bytes: Buffer, length: number): Buffer {
  if (length <= bytes.byteLength) return bytes.subarray(0, length);
  const longer = Buffer.alloc(length);
  bytes.copy(longer);
  return longer;
}

/** Carries requests out in odd order and logs them. */
export class Recorder extends BufferDisk {
  readonly initial: Buffer;
  readonly log: LogEntry[] = [];
  readonly #ended = new Set<number>();
  readonly #dice: Dice;

  constructor(bytes: Buffer, dice: Dice) {
    super(Buffer.from(bytes));
    this.initial = Buffer.from(bytes);
    this.#dice = dice;
  }

  override async write(offset: number, source: Uint8Array): Promise<void> {
    await this.#odd();
    const index = this.log.push({ kind: 'write', offset, bytes: Buffer.from(source) }) - 1;
    await super.write(offset, source);
    await this.#odd();
    this.#ended.add(index);
  }

  override async truncate(lengthBytes: number): Promise<void> {
    await this.#odd();
    const index = this.log.push({ kind: 'truncate', length: lengthBytes }) - 1;
    await super.truncate(lengthBytes);
    this.#ended.add(index);
  }

  override async flush(): Promise<void> {
    const covers = new Set(this.#ended);
    await this.#odd();
    this.log.push({ kind: 'flush', covers });
  }

  async #odd(): Promise<void> {
    for (let turns = this.#dice.roll(6); turns > 0; turns--) await Promise.resolve();
  }
}

/** Carries out one entry of a log; `sectors` says which sectors of a write are there. */
export function apply(
  bytes: Buffer,
  entry: LogEntry,
  sectors: (sector: number) => boolean = () => true,
): Buffer {
  if (entry.kind === 'flush') return bytes;
  if (entry.kind === 'truncate') return resized(bytes, entry.length);
  const end = entry.offset + entry.bytes.byteLength;
  const out = end > bytes.byteLength ? resized(bytes, end) : bytes;
  for (let at = entry.offset; at < end;) {
    const next = Math.min(end, (Math.floor(at / SECTOR) + 1) * SECTOR);
    if (sectors(Math.floor((at - entry.offset + (entry.offset % SECTOR)) / SECTOR)))
      entry.bytes.copy(out, at, at - entry.offset, next - entry.offset);
    at = next;
  }
  return out;
}

export interface Layout extends Omit<CreateQcow2Options, 'sizeBytes'> {
  readonly guestBytes: number;
  /** Length of a backing disk. */
  readonly below?: number;
  readonly cacheBytes?: number;
  /** False: what is copied into a new cluster is not flushed first. */
  readonly copyBarrier?: boolean;
}

export interface Act {
  readonly verb: 'write' | 'zero' | 'discard' | 'flush' | 'fua' | 'packed' | 'empty' | 'grow';
  readonly from: number;
  readonly to: number;
  readonly value: number;
  /** Log lengths when it was asked for and when it was told to be done. */
  begin: number;
  end: number;
}

export interface Recording {
  readonly disk: Recorder;
  readonly below: Buffer | null;
  /** In order of their ends. */
  readonly acts: readonly Act[];
  readonly guestBytes: number;
  readonly largest: number;
}

const VERBS = ['write', 'write', 'write', 'write', 'zero', 'discard', 'flush', 'fua', 'packed'] as const;

/** The bytes of an empty image. */
export async function emptyImage(layout: Layout): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'colo-qcow2-'));
  try {
    await createQcow2(join(folder, 'a'), { sizeBytes: layout.guestBytes, ...layout });
    return await readFile(join(folder, 'a'));
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A qcow2 node on `disk`. */
export async function openImage(
  disk: BlockDriver,
  below: Buffer | null,
  options: { cacheBytes?: number; readOnly?: boolean; copyBarrier?: boolean } = {},
): Promise<BlockNode> {
  const nodes = new Map([
    ['file', new BlockNode('file', disk)],
    ['backing', new BlockNode('backing', new BufferDisk(below ?? Buffer.alloc(0)))],
  ]);
  const context: OpenContext = {
    nodeName: 'q',
    openChild: (role) => Promise.resolve(nodes.get(role)!),
    find: () => null,
    findLater: () => () => null,
    emit: () => undefined,
  };
  const tree = {
    file: 'file',
    backing: below === null ? '' : 'backing',
    'l2-cache-size': String(options.cacheBytes ?? 1024),
    'read-only': options.readOnly ? 'on' : 'off',
    'copy-barrier': options.copyBarrier === false ? 'off' : 'on',
  };
  return new BlockNode('q', await openQcow2(new OptionReader(tree), context));
}

/** Runs `rounds` of overlapping requests on a new image. */
export async function record(
  layout: Layout,
  seed: number,
  rounds: number,
  image: Buffer,
): Promise<Recording> {
  const dice = new Dice(seed);
  const disk = new Recorder(image, dice);
  const below = layout.below === undefined ? null : Buffer.alloc(layout.below, 'below');
  const node = await openImage(disk, below, layout);
  const acts: Act[] = [];
  let size = node.lengthBytes;
  const guestBytes = size;
  const largest = size + 40_000;
  for (let round = 0; round < rounds; round++) {
    const alone = dice.roll(16);
    const jobs: Promise<void>[] = [];
    const taken: Act[] = [];
    const many = alone === 0 ? 3 : alone === 1 ? 1 : 1 + dice.roll(5);
    for (let which = 0; which < many; which++) {
      const verb: Act['verb'] =
        alone === 0
          ? which === 1
            ? 'empty'
            : 'flush'
          : alone === 1 && size + 5000 <= largest
            ? 'grow'
            : VERBS[dice.roll(VERBS.length)]!;
      const whole = verb === 'flush' || verb === 'empty';
      const length = 1 + dice.roll(dice.roll(3) === 0 ? 30_000 : 1500);
      let from = dice.roll(dice.roll(2) === 0 ? size : Math.min(size, 9000));
      let to = Math.min(size, from + length);
      if (whole) from = to = 0;
      else if (verb === 'grow') [from, to] = [size, size + 512 * (1 + dice.roll(9))];
      else if (verb === 'packed') {
        const clusterBytes = node.driver.clusterBytes ?? 512;
        from -= from % clusterBytes;
        to = Math.min(size, from + clusterBytes);
      }
      if (taken.some((other) => from < other.to && other.from < to)) continue;
      const act: Act = { verb, from, to, value: 1 + dice.roll(255), begin: disk.log.length, end: Infinity };
      taken.push(act);
      jobs.push(
        run(node, act).then(() => {
          act.end = disk.log.length;
          acts.push(act);
        }),
      );
    }
    await Promise.all(jobs);
    size = node.lengthBytes;
  }
  await node.close();
  return { disk, below, acts, guestBytes, largest };
}

async function run(node: BlockNode, { verb, from, to, value }: Act): Promise<void> {
  if (verb === 'flush') await node.flush();
  else if (verb === 'empty') await node.makeEmpty();
  else if (verb === 'grow') await node.driver.truncate?.(to);
  else if (verb === 'zero') await node.writeZeroes(from, to - from, { unmap: value % 2 === 0 });
  else if (verb === 'discard') await node.discard(from, to - from);
  else if (verb === 'packed') {
    assert.ok(node.driver instanceof Qcow2Driver);
    await node.driver.writeCompressed(from, Buffer.alloc(to - from, value));
  } else await node.write(from, Buffer.alloc(to - from, value), { fua: verb === 'fua' });
}

/** What the guest wrote so far: values, and bytes that a discard may or may not have made zero. */
export class Model {
  readonly value: Uint8Array;
  readonly maybeZero: Uint8Array;
  readonly initial: Buffer;

  constructor({ below, guestBytes, largest }: Recording) {
    this.initial = Buffer.alloc(largest);
    below?.copy(this.initial);
    this.value = Uint8Array.from(this.initial).fill(0, guestBytes);
    this.maybeZero = new Uint8Array(largest);
  }

  end({ verb, from, to, value }: Act): void {
    if (verb === 'empty') {
      this.value.set(this.initial);
      this.maybeZero.fill(0);
    } else if (verb === 'discard') this.maybeZero.fill(1, from, to);
    else if (verb !== 'flush') {
      this.value.fill(verb === 'zero' || verb === 'grow' ? 0 : value, from, to);
      this.maybeZero.fill(0, from, to);
    }
  }
}

/** No errors, and all of the guest's bytes, of the image in `bytes`. */
export async function examine(bytes: Buffer, below: Buffer | null, what: string): Promise<Buffer> {
  const file = new BlockNode('file', new BufferDisk(bytes));
  const report = await checkQcow2(file, (await readQcow2Info(file, false)).header);
  assert.equal(
    report.errors,
    0,
    `${what}: ${report.messages.filter((line) => line.startsWith('E'))[0] ?? ''}`,
  );
  const node = await openImage(new BufferDisk(bytes), below, { readOnly: true, cacheBytes: 2 ** 20 });
  const found = Buffer.alloc(node.lengthBytes);
  await node.read(0, found);
  return found;
}

/** What a killed process has left after `moment` entries of its log. */
export function afterKill({ disk }: Recording, moment: number): Buffer {
  let bytes: Buffer = Buffer.from(disk.initial);
  for (const entry of disk.log.slice(0, moment)) bytes = apply(bytes, entry);
  return bytes;
}

/** What a power failure after `moment` entries may have left. */
export function afterPowerFailure(recording: Recording, moment: number, dice: Dice): Buffer {
  const { disk } = recording;
  const stable = new Set<number>();
  for (const entry of disk.log.slice(0, moment)) {
    if (entry.kind === 'flush') for (const index of entry.covers) stable.add(index);
  }
  // From nearly nothing to nearly everything.
  const luck = dice.roll(101);
  let bytes: Buffer = Buffer.from(disk.initial);
  for (const [index, entry] of disk.log.slice(0, moment).entries()) {
    if (stable.has(index)) bytes = apply(bytes, entry);
    else if (dice.roll(100) < luck) {
      const whole = dice.roll(3) > 0;
      bytes = apply(bytes, entry, () => whole || dice.roll(2) === 0);
    }
  }
  return bytes;
}

/** What a run needs to be worth its time: COLO_FUZZ=N makes it N times as long. */
export const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);
