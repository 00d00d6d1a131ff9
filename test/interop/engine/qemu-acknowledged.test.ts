/**
 * What a guest has promised holds: pairs of engines on QEMU, a guest that says the number of each sector that it has
 * written and flushed, checkpoints at any moment, and a primary that is killed at any moment of one. What the world has
 * heard (the output up to a checkpoint that arrived, and then the survivor's) is one sequence without gap or repetition,
 * so is what was written, and what was heard was on stable storage before.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { EngineDisk } from '../../../src/engine/engine.ts';
import { QemuEngine } from '../../../src/engine/qemu/index.ts';
import { RING_AT, RING_SECTORS, countingSector, lineOf, offsetOf } from '../../helpers/counting-guest.ts';
import { Dice } from '../../helpers/dice.ts';
import { skipReason as skip, specOf } from './qemu-machines.ts';

const DISK_BYTES = (RING_AT + RING_SECTORS) * 512;
const seed = Number(process.env['COLO_SEED'] ?? 1);

type DiskState = Pick<SlowDisk, 'content' | 'lastWritten' | 'flushed'>;

/** A disk that takes its time, knows what has been flushed, and in which order numbers were written. */
class SlowDisk implements EngineDisk {
  readonly id = 'disk0';
  readonly lengthBytes = DISK_BYTES;
  readonly readOnly = false;
  content = new Uint8Array(DISK_BYTES);
  /** In the order of their ends. */
  readonly written: number[] = [];
  lastWritten = 0;
  flushed = 0;
  inFlight = 0;
  readonly #dice: Dice;

  constructor(dice: Dice) {
    this.#dice = dice;
    this.content.set(countingSector());
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#work(() => target.set(this.content.subarray(offset, offset + target.length)));
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    const n = new DataView(source.buffer, source.byteOffset).getUint32(0, true);
    assert.equal(offset, offsetOf(n));
    assert.equal(source.length, 512);
    await this.#work(() => {
      this.content.set(source, offset);
      this.written.push(n);
      this.lastWritten = n;
    });
  }

  async flush(): Promise<void> {
    const upTo = this.lastWritten;
    await this.#work(() => (this.flushed = Math.max(this.flushed, upTo)));
  }

  /** Shows what another disk shows, and forgets what happened to this one. */
  become(state: DiskState): void {
    Object.assign(this, state);
    this.written.length = 0;
  }

  state(): DiskState {
    return { content: this.content.slice(), lastWritten: this.lastWritten, flushed: this.flushed };
  }

  async #work(act: () => void): Promise<void> {
    this.inFlight++;
    // Some requests end at once, most in a later turn, some take longer than the guest's time slice.
    const kind = this.#dice.roll(8);
    if (kind === 0) await delay(1 + this.#dice.roll(4));
    else if (kind > 2) await new Promise((resolve) => setImmediate(resolve));
    act();
    this.inFlight--;
  }
}

/** A host: an engine, the disk as its guest sees it, and what the guest has said. */
class Host {
  readonly disk: SlowDisk;
  readonly engine: QemuEngine;
  said = '';
  broken: string | null = null;
  #heardTo = 0;

  private constructor(disk: SlowDisk, engine: QemuEngine) {
    this.disk = disk;
    this.engine = engine;
    engine.serials[0]!.onData = (bytes) => this.#hear(bytes);
  }

  static async start(dice: Dice, incoming: boolean): Promise<Host> {
    const disk = new SlowDisk(dice);
    const plain = { nics: [], args: ['-vga', 'none', '-boot', 'c'] };
    const engine = new QemuEngine(await specOf(disk as never, { ...plain, incoming }));
    const host = new Host(disk, engine);
    await engine.start();
    return host;
  }

  /** The highest number of a whole line. */
  get lastHeard(): number {
    return this.#heardTo;
  }

  #hear(bytes: Uint8Array): void {
    this.said += Buffer.from(bytes).toString('latin1');
    const end = this.said.lastIndexOf('\n');
    const last = Number.parseInt(this.said.slice(0, end).split('\n').at(-1) ?? '', 16);
    if (Number.isNaN(last)) return;
    const { flushed } = this.disk;
    if (last > flushed) this.broken ??= `${last} was said, but only ${flushed} were flushed`;
    this.#heardTo = last;
  }

  async says(number: number): Promise<void> {
    while (this.lastHeard < number) {
      assert.equal(this.broken, null);
      assert.notEqual(this.engine.state, 'failed');
      await delay(5);
    }
  }
}

/** What the world knows: what was said and written up to the last checkpoint that arrived. */
interface World {
  said: string;
  written: number[];
}

class Pair {
  primary: Host;
  secondary: Host;
  readonly #world: World;
  readonly #dice: Dice;
  #isFirst = true;

  constructor(primary: Host, secondary: Host, world: World, dice: Dice) {
    this.primary = primary;
    this.secondary = secondary;
    this.#world = world;
    this.#dice = dice;
  }

  /** `death`: the step before which the primary is killed. */
  async checkpoint(death: 'pause' | 'capture' | 'resume' | 'load' | null = null): Promise<void> {
    const { primary, secondary } = this;
    const dies = (step: typeof death): void => {
      if (step === death) process.kill(primary.engine.pid, 'SIGKILL');
    };
    try {
      await secondary.engine.pause();
      assert.equal(secondary.disk.inFlight, 0);
      dies('pause');
      await primary.engine.pause();
      assert.equal(primary.disk.inFlight, 0, 'a request is under way in a machine that stands');
      const said = primary.said;
      const written = [...primary.disk.written];
      const disk = primary.disk.state();
      const capture = primary.engine.capture({ full: this.#isFirst });
      dies('capture');
      const snapshot = await capture;
      dies('resume');
      await primary.engine.resume();
      dies('load');
      // Its own writes are dropped: the disk is that of the checkpoint.
      secondary.disk.become(disk);
      await secondary.engine.load([snapshot]);
      this.#isFirst = false;
      secondary.said = '';
      this.#world.said += said;
      this.#world.written.push(...written);
      primary.said = primary.said.slice(said.length);
      primary.disk.written.splice(0, written.length);
    } catch (error) {
      if (death === null) throw error;
    }
    await secondary.engine.resume();
  }

  /** Some checkpoints at moments of no meaning, then the primary's end. The survivor. */
  async run(checkpoints: number): Promise<Host> {
    for (let at = 0; at < checkpoints; at++) {
      await this.primary.says(this.primary.lastHeard + 1 + this.#dice.roll(40));
      await this.checkpoint();
      await delay(this.#dice.roll(20));
    }
    await this.checkpoint(this.#dice.pick(['pause', 'capture', 'resume', 'load']));
    await this.primary.engine.stop();
    return this.secondary;
  }
}

/** All that was said, and all that was written, is 1, 2, 3… */
function check(world: World, survivor: Host): void {
  assert.equal(survivor.broken, null);
  const said = world.said + survivor.said;
  const last = survivor.lastHeard;
  const whole = said.slice(0, said.lastIndexOf('\n') + 1);
  assert.equal(whole, Array.from({ length: last }, (_, at) => lineOf(at + 1)).join(''));
  const written = [...world.written, ...survivor.disk.written];
  assert.deepEqual(
    written,
    Array.from({ length: written.length }, (_, at) => at + 1),
  );
  assert.ok(written.length >= last);
  // Its sector and those of the whole ring before it.
  const disk = new DataView(survivor.disk.content.buffer);
  for (let n = Math.max(1, written.length - RING_SECTORS + 1); n <= written.length; n++) {
    for (let at = 0; at < 512; at += 4) assert.equal(disk.getUint32(offsetOf(n) + at, true), n);
  }
}

test('no acknowledged write is lost or repeated, whenever the primary dies', { skip }, async (t) => {
  const dice = new Dice(seed);
  const world: World = { said: '', written: [] };
  let primary = await Host.start(dice, false);
  t.after(() => primary.engine.stop());
  await primary.engine.resume();
  await primary.says(3);
  for (let generation = 0; generation < 2; generation++) {
    const secondary = await Host.start(dice, true);
    t.after(() => secondary.engine.stop());
    const survivor = await new Pair(primary, secondary, world, dice).run(3);
    await survivor.says(survivor.lastHeard + 40);
    await survivor.engine.pause();
    check(world, survivor);
    await survivor.engine.resume();
    primary = survivor;
  }
});
