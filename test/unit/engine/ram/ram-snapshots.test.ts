/** Guest RAM in shared memory: capture and load against a model, on several numbers of threads. */
import assert from 'node:assert/strict';
import { fstatSync, readdirSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { ColoError, ProtocolError } from '../../../../src/base/errors.ts';
import { RamFile, RamSnapshots } from '../../../../src/engine/ram/index.ts';
import type { RamChanges } from '../../../../src/engine/ram/index.ts';

const PAGE = 4096;
const MIB = 1024 * 1024;
/** Not a whole number of strips, and more than two. */
const RAM_BYTES = 2 * 1024 * 1024 + 5 * PAGE;
const THREADS = [0, 1, 3];

interface Machine {
  readonly ram: RamFile;
  readonly snapshots: RamSnapshots;
}

async function machine(threads: number, byteLength = RAM_BYTES, name = 'test'): Promise<Machine> {
  const ram = RamFile.create(name, byteLength);
  return { ram, snapshots: await RamSnapshots.open(ram, threads) };
}

async function close(...machines: Machine[]): Promise<void> {
  for (const { ram, snapshots } of machines) {
    await snapshots.close();
    ram.close();
  }
}

async function move(from: Machine, to: Machine, full: boolean): Promise<number> {
  const { ram, pages } = await from.snapshots.capture({ full });
  await to.snapshots.load(to.snapshots.check([ram]));
  return pages;
}

for (const threads of THREADS) {
  test(`both machines are equal after each checkpoint, whatever either has done before, ${threads} threads`, async () => {
    const primary = await machine(threads);
    const secondary = await machine(threads);
    const pageCount = RAM_BYTES / PAGE;
    const writes = fc.array(
      fc.record({
        page: fc.nat(pageCount - 1),
        run: fc.integer({ min: 1, max: 90 }),
        at: fc.nat(PAGE - 1),
        value: fc.nat(3),
      }),
      { maxLength: 12 },
    );
    const apply = (
      ram: Buffer,
      list: readonly { page: number; run: number; at: number; value: number }[],
    ) => {
      for (const { page, run, at, value } of list) {
        for (let p = page; p < Math.min(page + run, pageCount); p++) ram[p * PAGE + at] = value;
      }
    };
    try {
      const checkpoint = fc.record({ full: fc.boolean(), ours: writes, theirs: writes });
      await fc.assert(
        fc.asyncProperty(fc.array(checkpoint, { minLength: 1, maxLength: 6 }), async (checkpoints) => {
          for (const { full, ours, theirs } of checkpoints) {
            const before = Buffer.from(primary.ram.bytes);
            const known = primary.snapshots.hasBaseline && secondary.snapshots.hasBaseline;
            apply(primary.ram.bytes, ours);
            apply(secondary.ram.bytes, theirs);
            const now = Buffer.from(primary.ram.bytes);
            const pages = await move(primary, secondary, full || !known);
            assert.ok(primary.ram.bytes.equals(now), 'a capture changes nothing');
            assert.ok(secondary.ram.bytes.equals(now), 'the secondary is as the primary');
            const expected = full || !known ? Buffer.alloc(RAM_BYTES) : before;
            let differ = 0;
            for (let at = 0; at < RAM_BYTES; at += PAGE) {
              if (now.compare(expected, at, at + PAGE, at, at + PAGE) !== 0) differ++;
            }
            assert.equal(pages, differ);
          }
        }),
        { numRuns: threads < 2 ? 40 : 20 },
      );
    } finally {
      await close(primary, secondary);
    }
  });
}

test('several snapshots are loaded in one go', async () => {
  const primary = await machine(1);
  const secondary = await machine(1);
  try {
    const parts: Uint8Array[] = [];
    for (let round = 1; round < 5; round++) {
      primary.ram.bytes.fill(round, round * PAGE, (round + 2) * PAGE);
      parts.push((await primary.snapshots.capture({ full: round === 1 })).ram);
    }
    await secondary.snapshots.load(secondary.snapshots.check(parts));
    assert.ok(secondary.ram.bytes.equals(primary.ram.bytes));
    assert.equal((await secondary.snapshots.capture({ full: false })).pages, 0, 'it is the new baseline');
  } finally {
    await close(primary, secondary);
  }
});

test('a capture in pieces keeps to its bound, and its pieces are the whole', async () => {
  const bytes = 8 * 1024 * 1024;
  const primary = await machine(2, bytes);
  const secondary = await machine(2, bytes);
  const maxPages = 512;
  const round = async (full: boolean): Promise<number> => {
    let pieces = 0;
    for (let more = true; more; pieces++) {
      const piece = await primary.snapshots.capture({ full: full && pieces === 0, maxPages });
      assert.ok(piece.pages <= maxPages);
      await secondary.snapshots.stage(secondary.snapshots.check([piece.ram]));
      ({ more } = piece);
      // The guest runs: before and behind what has been looked at.
      primary.ram.bytes[0] = pieces + 1;
      primary.ram.bytes[bytes - 1] = pieces + 1;
    }
    return pieces;
  };
  try {
    primary.ram.bytes.fill(1);
    secondary.ram.bytes.fill(2, PAGE, 3 * PAGE);
    const before = Buffer.from(secondary.ram.bytes);
    assert.equal(await round(true), 4);
    assert.equal(await round(false), 1, 'what has not changed needs no piece of its own');
    assert.ok(secondary.ram.bytes.equals(before), 'staged is not loaded');
    const { ram: last, more } = await primary.snapshots.capture({ full: false });
    assert.ok(!more);
    await secondary.snapshots.load(secondary.snapshots.check([last]));
    assert.ok(secondary.ram.bytes.equals(primary.ram.bytes));

    // A capture without a bound in the middle of a round is of everything.
    primary.ram.bytes.fill(3);
    assert.ok((await primary.snapshots.capture({ full: true, maxPages })).more);
    primary.ram.bytes[0] = 9;
    const rest = await primary.snapshots.capture({ full: false });
    assert.equal(rest.pages, bytes / PAGE - maxPages + 1);
    assert.ok(!rest.more);
  } finally {
    await close(primary, secondary);
  }
});

/** What memory files of that name take, all together. */
function used(name: string): number {
  let sum = 0;
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`).startsWith(`/memfd:${name}`)) {
        sum += fstatSync(Number(fd)).blocks * 512;
      }
    } catch {
      // The folder's own descriptor.
    }
  }
  return sum;
}

test('memory that was never used is not taken by captures and loads', async () => {
  const bytes = 256 * MIB;
  const primary = await machine(2, bytes, 'first');
  const secondary = await machine(2, bytes, 'second');
  try {
    primary.ram.bytes.fill(1, 100 * MIB, 101 * MIB);
    primary.ram.bytes.fill(1, bytes - PAGE);
    assert.equal(used('first'), MIB + PAGE);
    await move(primary, secondary, true);
    await move(primary, secondary, false);
    // What has data is read in blocks of 64 KiB; once in the guest, once in the baseline.
    const expected = 2 * (MIB + 64 * 1024);
    assert.equal(used('first'), expected);
    assert.equal(used('second'), expected);
    secondary.ram.bytes.fill(2, 0, 8 * MIB);
    assert.equal(used('second'), expected + 8 * MIB);
    await move(primary, secondary, false);
    await move(primary, secondary, false);
    assert.equal(used('second'), expected, 'what a load makes zero again is given back');
    primary.ram.bytes.fill(0, 100 * MIB, 101 * MIB);
    await move(primary, secondary, true);
    await move(primary, secondary, false);
    assert.equal(used('second'), 2 * 64 * 1024, 'and so is what a full snapshot does not have');
  } finally {
    await close(primary, secondary);
  }
});

test('what does not fit is refused before anything changes', async () => {
  const primary = await machine(1);
  const secondary = await machine(1);
  const stranger = await machine(0, 8 * PAGE);
  try {
    await assert.rejects(primary.snapshots.capture({ full: false }), ProtocolError);
    primary.ram.bytes[0] = 1;
    const { ram: first } = await primary.snapshots.capture({ full: true });
    primary.ram.bytes[PAGE] = 1;
    const { ram: second } = await primary.snapshots.capture({ full: false });
    const check = (...parts: Uint8Array[]): RamChanges[] => secondary.snapshots.check(parts);
    assert.throws(() => check(second), /builds on a state that this machine does not hold/);
    assert.throws(() => check(second, first), ProtocolError);
    assert.throws(() => check(first, first, second, second), ProtocolError);
    assert.throws(() => stranger.snapshots.check([first]), /made for .* bytes of RAM/);
    assert.ok(!secondary.snapshots.hasBaseline);
    assert.ok(secondary.ram.bytes.every((byte) => byte === 0));
    await secondary.snapshots.load(check(first, second));
    assert.ok(secondary.ram.bytes.equals(primary.ram.bytes));
  } finally {
    await close(primary, secondary, stranger);
  }
});

test('one thing at a time', async () => {
  const primary = await machine(1);
  try {
    const first = primary.snapshots.capture({ full: true });
    await assert.rejects(primary.snapshots.capture({ full: true }), /under way/);
    await first;
  } finally {
    await close(primary);
  }
  await assert.rejects(primary.snapshots.capture({ full: true }), ColoError);
});
