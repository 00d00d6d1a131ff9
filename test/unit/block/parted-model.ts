/**
 * Both sides of a replicated disk in memory, with guests that write to them, a link that can lose what is on its way,
 * and hosts that die: a process (its unfinished writes are torn or lost), or a machine (what was not flushed is lost
 * too, in pieces). Every choice comes from one seed.
 */
import assert from 'node:assert/strict';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import { ReplicationDriver } from '../../../src/block/drivers/replication.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { PassThrough } from '../../../src/block/filters/pass-through.ts';
import type { FilteredOp } from '../../../src/block/filters/pass-through.ts';
import { BitmapSync } from '../../../src/block/jobs/bitmap-sync.ts';
import { MirrorJob } from '../../../src/block/jobs/mirror.ts';
import { RangeTracker } from '../../../src/block/jobs/range-tracker.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { PARTED_BITMAP, recordParting } from '../../../src/block/parted.ts';
import { IoError } from '../../../src/base/errors.ts';
import { CLUSTER, turns } from './jobs-helpers.ts';
import { rawBytes, secondaryChain } from './replication-chain.ts';
import type { Chain } from './replication-chain.ts';

export const CHUNKS = 24;
const LENGTH = CHUNKS * CLUSTER;
/** Power loss keeps or loses pieces of this size. */
const PIECE_BYTES = 4096;

/** mulberry32: enough for choices, and the same on every machine. */
export class Choice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  once(inSo: number): boolean {
    return this.below(inSo) === 0;
  }

  async pause(): Promise<void> {
    await turns(this.below(3));
  }
}

/** For ever; what waits here belongs to a process that is gone. */
const gone = (): Promise<never> => new Promise(() => undefined);

/** A disk whose host can die at any moment. */
class MortalDisk extends PassThrough {
  readonly raw: MemoryDriver;
  readonly #choice: Choice;
  /** One word that changes while others wait; asked through a call, as it may have changed since the last time. */
  readonly #state = { isAlive: true };
  #durable: Buffer = Buffer.alloc(LENGTH);

  constructor(raw: MemoryDriver, choice: Choice) {
    super('mortal', raw);
    this.raw = raw;
    this.#choice = choice;
  }

  kill(): void {
    this.#state.isAlive = false;
  }

  #lives(): boolean {
    return this.#state.isAlive;
  }

  /** What the machine forgets when it loses its power: any of what was written since the last flush. */
  async forget(): Promise<void> {
    const now = await rawBytes(this.raw);
    for (let at = 0; at < LENGTH; at += PIECE_BYTES) {
      if (this.#choice.once(2)) await this.raw.write(at, this.#durable.subarray(at, at + PIECE_BYTES));
      else await this.raw.write(at, now.subarray(at, at + PIECE_BYTES));
    }
  }

  protected override async around<T>(
    op: FilteredOp,
    _offset: number,
    _length: number,
    act: () => Promise<T>,
  ): Promise<T> {
    if (!this.#lives()) return gone();
    const durable = op === 'flush' ? await rawBytes(this.raw) : null;
    await this.#choice.pause();
    if (this.#lives() || (op === 'write' && this.#choice.once(2))) {
      const result = await act();
      if (durable) this.#durable = durable;
      await this.#choice.pause();
      if (this.#lives()) return result;
    }
    return gone();
  }

  /** A write that is torn by the death of its process. */
  override async write(offset: number, source: Uint8Array): Promise<void> {
    await super.write(
      offset,
      this.#lives() ? source : source.subarray(0, this.#choice.below(source.byteLength)),
    );
  }
}

/** The NBD connection: requests and replies take their time and get lost when it is cut. */
class Link implements BlockDriver {
  readonly driverName = 'link';
  readonly readOnly = false;
  readonly #far: () => BlockNode;
  readonly #choice: Choice;
  readonly #state = { isCut: false };
  /** The near end is dead: nobody hears of anything. */
  isDeaf = false;

  constructor(far: () => BlockNode, choice: Choice) {
    this.#far = far;
    this.#choice = choice;
  }

  get lengthBytes(): number {
    return LENGTH;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return new Map();
  }

  cut(): void {
    this.#state.isCut = true;
  }

  read(): Promise<void> {
    return Promise.reject(new IoError('EIO', 'nobody reads through replication'));
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#carry(() => this.#far().write(offset, source));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#carry(() => this.#far().writeZeroes(offset, length));
  }

  flush(): Promise<void> {
    return this.#carry(() => this.#far().flush());
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #isCut(): boolean {
    return this.#state.isCut;
  }

  async #carry(act: () => Promise<void>): Promise<void> {
    const lost = (): Promise<never> =>
      this.isDeaf ? gone() : Promise.reject(new IoError('ESHUTDOWN', 'the connection is lost'));
    if (this.#isCut()) return lost();
    await this.#choice.pause();
    // What was on its way may still arrive.
    if (this.#isCut() && this.#choice.once(2)) return lost();
    const done = act().then(
      () => null,
      (error: unknown) => error as Error,
    );
    while (!(await settled(done))) if (this.#isCut()) return lost();
    await this.#choice.pause();
    if (this.#isCut()) return lost();
    const failure = await done;
    if (failure) throw failure;
  }
}

async function settled(promise: Promise<unknown>): Promise<boolean> {
  const state = { is: false };
  void promise.then(() => (state.is = true));
  await turns(1);
  return state.is;
}

/** Writes what nobody else would have written, at several places at once, never two at the same place. */
class Guest {
  readonly #top: BlockNode;
  readonly #choice: Choice;
  readonly #busy = new RangeTracker();
  readonly written = new Set<number>();
  readonly #state = { isPaused: false, hasEnded: false };
  #value: number;
  readonly #writers: Promise<void>[];

  constructor(top: BlockNode, choice: Choice, value: number) {
    this.#top = top;
    this.#choice = choice;
    this.#value = value;
    this.#writers = [this.#write(), this.#write(), this.#write()];
  }

  /** As an engine does: nothing is in flight when it ends. */
  async pause(): Promise<void> {
    this.#state.isPaused = true;
    await this.#busy.idle();
  }

  resume(): void {
    this.#state.isPaused = false;
  }

  async end(): Promise<void> {
    this.#state.hasEnded = true;
    await Promise.all(this.#writers);
  }

  /** Its side has died; what it waits for never comes. */
  abandon(): void {
    this.#state.hasEnded = true;
  }

  #has(state: 'isPaused' | 'hasEnded'): boolean {
    return this.#state[state];
  }

  async #write(): Promise<void> {
    for (;;) {
      await turns(1 + this.#choice.below(4));
      if (this.#has('hasEnded')) return;
      const offset = this.#choice.below(LENGTH / 512) * 512;
      const length = Math.min(LENGTH - offset, (1 + this.#choice.below(160)) * 512);
      await this.#busy.settled(offset, length);
      if (this.#has('isPaused') || this.#has('hasEnded')) continue;
      const token = this.#busy.enter(offset, length);
      for (let at = offset; at < offset + length; at += 512) this.written.add(Math.floor(at / CLUSTER));
      const what = this.#choice.below(8);
      const done =
        what === 0
          ? this.#top.flush()
          : what === 1
            ? this.#top.writeZeroes(offset, length)
            : this.#top.write(offset, Buffer.alloc(length, (this.#value = (this.#value + 2) % 256)));
      await done.catch(() => undefined);
      this.#busy.leave(token);
    }
  }
}

export class Pair {
  readonly choice: Choice;
  readonly disk: MortalDisk;
  readonly diskFaults: ErrorFilter;
  readonly secondaryFaults: ErrorFilter;
  readonly link: Link;
  readonly replication: ReplicationDriver;
  readonly quorum: QuorumDriver;
  readonly top: BlockNode;
  readonly chain: Chain;
  readonly secondaryDisk: MortalDisk;
  readonly guest: Guest;
  readonly secondaryGuest: Guest;
  /** Null, or which side has died. */
  #dead: 'primary' | 'secondary' | null = null;

  private constructor(seed: number, parallel: boolean) {
    const choice = (this.choice = new Choice(seed));
    const mortal: { disk?: MortalDisk; faults?: ErrorFilter } = {};
    this.chain = secondaryChain(LENGTH, (layer, driver) => {
      if (layer !== 'secondary') return driver;
      assert.ok(driver instanceof MemoryDriver);
      mortal.disk = new MortalDisk(driver, choice);
      return (mortal.faults = new ErrorFilter(mortal.disk));
    });
    assert.ok(mortal.disk && mortal.faults);
    this.secondaryDisk = mortal.disk;
    this.secondaryFaults = mortal.faults;
    this.link = new Link(() => this.chain.secondary, choice);
    this.replication = new ReplicationDriver({
      nodeName: 'replication0',
      mode: 'primary',
      file: new BlockNode('nbd', this.link),
      emit: () => undefined,
    });
    if (parallel) Object.defineProperty(this.replication, 'leads', { get: () => false });
    this.disk = new MortalDisk(new MemoryDriver(LENGTH), choice);
    this.diskFaults = new ErrorFilter(this.disk);
    this.quorum = new QuorumDriver({
      nodeName: 'q',
      children: [new BlockNode('disk', this.diskFaults), new BlockNode('replication0', this.replication)],
      voteThreshold: 1,
      readPattern: 'fifo',
      emit: () => undefined,
    });
    this.top = new BlockNode('q', this.quorum);
    this.replication.onParted = () => recordParting([this.top]);
    this.chain.replication.onParted = () => recordParting([this.chain.top]);
    this.guest = new Guest(this.top, choice, 0);
    this.secondaryGuest = new Guest(this.chain.top, choice, 1);
  }

  /** Protected, equal, and writing. `parallel`: without the rule that the forward comes first. */
  static async start(seed: number, parallel = false): Promise<Pair> {
    const pair = new Pair(seed, parallel);
    await pair.guest.pause();
    await pair.secondaryGuest.pause();
    await pair.replication.participant.start('primary');
    await pair.chain.replication.participant.start('secondary');
    pair.guest.resume();
    pair.secondaryGuest.resume();
    return pair;
  }

  /** For a test that failed half way: nothing goes on in the background. */
  close(): void {
    this.guest.abandon();
    this.secondaryGuest.abandon();
    this.#dead ??= 'primary';
  }

  /** The forwards have failed, or the primary's disk has: only the primary can go on. */
  get hasParted(): boolean {
    return this.replication.participant.error() !== null;
  }

  /** One checkpoint as the frame takes it; it is broken off where the primary dies, finds an error or is left alone. */
  async checkpoint(): Promise<void> {
    const [primary, secondary] = [this.replication.participant, this.chain.replication.participant];
    await this.#unlessOver(this.guest.pause());
    await this.#unlessOver(this.secondaryGuest.pause());
    if (!this.#isOver() && primary.error() === null && secondary.error() === null) {
      primary.stopped('primary');
      this.guest.resume();
      await this.choice.pause();
      // A secondary that holds the whole checkpoint loads it, even if the primary has died by now.
      if (!this.#isOver() || (this.#isDead() && this.choice.once(2))) {
        await this.choice.pause();
        await this.#unlessOver(secondary.commit('secondary'), this.#isDead());
        this.secondaryGuest.written.clear();
      }
      await this.choice.pause();
      if (!this.#isOver()) await primary.commit('primary');
    }
    this.guest.resume();
    this.secondaryGuest.resume();
  }

  /** SIGKILL of the primary. */
  killPrimary(): Promise<void> {
    this.#dead = 'primary';
    this.guest.abandon();
    this.disk.kill();
    this.link.isDeaf = true;
    this.link.cut();
    return turns(8);
  }

  /** The secondary's process or its machine dies. */
  async killSecondary(powerLoss: boolean): Promise<void> {
    this.#dead = 'secondary';
    this.secondaryGuest.abandon();
    this.secondaryDisk.kill();
    this.link.cut();
    await turns(8);
    if (powerLoss) await this.secondaryDisk.forget();
  }

  /** The survivor goes on alone for a while. */
  async secondaryTakesOver(): Promise<void> {
    await this.secondaryGuest.pause();
    await this.chain.replication.participant.stop('secondary', true);
    this.secondaryGuest.resume();
    await this.chain.replication.commitJob?.ended;
    await turns(this.choice.below(12));
  }

  /** The primary goes on alone: told so by its manager in one of three ways. */
  async primaryGoesOn(): Promise<void> {
    const ways = [
      () => this.replication.participant.stop('primary', true),
      () => {
        this.quorum.removeChild('children.1');
        this.replication.takenOut();
        return Promise.resolve();
      },
      // Not yet: the failed forwards have told by themselves.
      () => (this.hasParted ? Promise.resolve() : this.replication.participant.stop('primary', true)),
    ];
    await ways[this.choice.below(ways.length)]?.();
    await turns(this.choice.below(12));
  }

  #isOver(): boolean {
    return this.#dead !== null;
  }

  #isDead(): boolean {
    return this.#dead === 'primary';
  }

  async #unlessOver(work: Promise<unknown>, whatever = false): Promise<void> {
    const state = { isDone: false };
    void work.then(() => (state.isDone = true));
    while (!state.isDone && (whatever || !this.#isOver())) await turns(1);
  }
}

export interface Resynced {
  /** Chunks in which the two disks differed before. */
  readonly differed: number[];
  /** Chunks that the bitmap held before. */
  readonly dirty: number[];
  readonly copiedBytes: number;
  /** Chunks that the guest wrote while the job ran. */
  readonly rewritten: number;
}

/** Brings `old`, the disk of the side that died, up to what `top` shows, and checks that they are equal then. */
export async function resync(top: BlockNode, old: BlockDriver, guest: Guest): Promise<Resynced> {
  await guest.pause();
  const bitmap = top.dirtyBitmaps.require(PARTED_BITMAP);
  const chunks = Array.from({ length: CHUNKS }, (_, chunk) => chunk);
  const dirty = chunks.filter((chunk) => bitmap.has(chunk * CLUSTER));
  const [before, ours] = [await rawBytes(old), await topBytes(top)];
  const differed = chunks.filter((chunk) => !part(before, chunk).equals(part(ours, chunk)));
  guest.written.clear();
  guest.resume();
  const job = new MirrorJob({
    id: 'resync',
    emit: () => undefined,
    source: top,
    target: new BlockNode('old', old),
    sync: 'full',
    bitmap: new BitmapSync(bitmap, 'on-success'),
  });
  job.start();
  await job.becameReady;
  await guest.pause();
  job.cancel();
  await job.ended;
  assert.equal(job.failure, null);
  const [after, now] = [await rawBytes(old), await topBytes(top)];
  for (const chunk of chunks) {
    assert.ok(part(after, chunk).equals(part(now, chunk)), `chunk ${chunk} differs after the resync`);
  }
  assert.equal(bitmap.dirtyBytes, 0);
  const rewritten = guest.written.size;
  guest.resume();
  await guest.end();
  return { differed, dirty, copiedBytes: job.progress().offset, rewritten };
}

const part = (bytes: Buffer, chunk: number): Buffer => bytes.subarray(chunk * CLUSTER, (chunk + 1) * CLUSTER);

async function topBytes(top: BlockNode): Promise<Buffer> {
  const out = Buffer.alloc(LENGTH);
  await top.read(0, out);
  return out;
}
