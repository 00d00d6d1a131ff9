/**
 * What every block driver must do, whatever it is made of (src/block/driver.ts). A driver's test names how to make one
 * and what it can do; the driver is used through BlockNode, as everybody does. COLO_FUZZ=N makes the random part N times
 * as long.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { BlockNode } from '../../src/block/node.ts';

/** A node to test, with what it takes to look at it again. */
export interface DriverUnderTest {
  readonly node: BlockNode;
  /** Closes the node and everything else. */
  close(): Promise<void>;
  /** Closes and opens again, when the content is stored. */
  reopen?(): Promise<BlockNode>;
}

export interface DriverTraits {
  /** Makes a node of `lengthBytes` that reads as zeros. */
  readonly create: (lengthBytes: number) => Promise<DriverUnderTest>;
  readonly capabilities: {
    readonly makeEmpty?: boolean;
    readonly grow?: boolean;
    /** blockStatus tells data from holes. */
    readonly status?: boolean;
  };
}

const LENGTH = 3 * 2 ** 20 + 512;
const RUNS = 15 * Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

export function describeBlockDriver(name: string, traits: DriverTraits): void {
  const using = async (
    act: (under: DriverUnderTest) => Promise<void>,
    lengthBytes = LENGTH,
  ): Promise<void> => {
    const under = await traits.create(lengthBytes);
    try {
      await act(under);
    } finally {
      await under.close();
    }
  };

  describe(`block driver ${name}`, () => {
    it('has its length and reads zeros', () =>
      using(async ({ node }) => {
        assert.equal(node.lengthBytes, LENGTH);
        const bytes = new Uint8Array(LENGTH).fill(1);
        await node.read(0, bytes);
        assert.ok(bytes.every((byte) => byte === 0));
      }));

    it('reads back what was written, unaligned and across clusters', () =>
      using(async ({ node }) => {
        for (const [offset, length] of [
          [0, 1],
          [511, 3],
          [65535, 2],
          [100_000, 300_001],
          [LENGTH - 7, 7],
        ] as const) {
          const source = pattern(length, offset);
          await node.write(offset, source);
          const back = new Uint8Array(length);
          await node.read(offset, back);
          assert.deepEqual(back, source);
        }
        const around = new Uint8Array(4);
        await node.read(65534, around);
        assert.equal(around[0], 0);
        assert.equal(around[3], 0);
      }));

    it('keeps the bytes of a source subarray in place', () =>
      using(async ({ node }) => {
        const whole = pattern(4096, 9);
        await node.write(1000, whole.subarray(100, 200), { fua: true });
        const back = new Uint8Array(100);
        await node.read(1000, back);
        assert.deepEqual(back, whole.slice(100, 200));
      }));

    it('neither keeps the source of a write nor changes it', () =>
      using(async ({ node }) => {
        // A Buffer, whose slice() is not a copy, of many whole clusters.
        const source = Buffer.alloc(400_000, 5);
        await node.write(0, source);
        await node.write(70_000, Buffer.alloc(1000, 6));
        assert.ok(
          source.equals(Buffer.alloc(400_000, 5)),
          'a later write has changed the buffer of an earlier one',
        );
        source.fill(9);
        const back = Buffer.alloc(400_000);
        await node.read(0, back);
        assert.ok(
          back.equals(Buffer.alloc(400_000, 5).fill(6, 70_000, 71_000)),
          'the disk shows what became of the buffer',
        );
      }));

    it('writes zeros over data', () =>
      using(async ({ node }) => {
        await node.write(0, pattern(400_000, 1));
        await node.writeZeroes(1000, 300_000);
        await node.writeZeroes(350_000, 10, { unmap: false });
        const back = new Uint8Array(400_000);
        await node.read(0, back);
        const want = pattern(400_000, 1);
        want.fill(0, 1000, 301_000).fill(0, 350_000, 350_010);
        assert.deepEqual(back, want);
      }));

    it('takes empty requests, and refuses those outside its range', () =>
      using(async ({ node }) => {
        await node.read(LENGTH, new Uint8Array(0));
        await node.write(LENGTH, new Uint8Array(0));
        await node.writeZeroes(5, 0);
        await node.discard(5, 0);
        await assert.rejects(node.read(LENGTH - 1, new Uint8Array(2)), { errno: 'EINVAL' });
        await assert.rejects(node.write(LENGTH, new Uint8Array(1)), { errno: 'EINVAL' });
      }));

    it('discards without touching the neighbours', () =>
      using(async ({ node }) => {
        const source = pattern(400_000, 3);
        await node.write(0, source);
        await node.discard(100_001, 200_000);
        const back = new Uint8Array(400_000);
        await node.read(0, back);
        assert.deepEqual(back.slice(0, 100_001), source.slice(0, 100_001));
        assert.deepEqual(back.slice(300_001), source.slice(300_001));
      }));

    it('covers the range asked for with extents, and calls nothing zero that is not', () =>
      using(async ({ node }) => {
        await node.write(200_000, pattern(10, 1));
        const extents = await node.blockStatus(1000, 2 ** 20);
        let at = 1000;
        for (const extent of extents) {
          assert.equal(extent.offset, at);
          assert.ok(extent.length > 0);
          at += extent.length;
          if (extent.zero) assert.ok(extent.offset + extent.length <= 200_000 || extent.offset >= 200_010);
        }
        assert.equal(at, 1000 + 2 ** 20);
        if (traits.capabilities.status) assert.ok(extents.some(({ zero }) => zero));
      }));

    it('survives requests that overlap in time', () =>
      using(async ({ node }) => {
        const pieces = Array.from({ length: 200 }, (_, index) => ({
          offset: index * 5000 + 13,
          bytes: pattern(5000, index),
        }));
        await Promise.all(pieces.map(({ offset, bytes }) => node.write(offset, bytes)));
        await node.flush();
        const back = new Uint8Array(5000);
        for (const { offset, bytes } of pieces) {
          await node.read(offset, back);
          assert.deepEqual(back, bytes);
        }
      }));

    it('behaves as an array of bytes under random concurrent requests', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(request(), { minLength: 1, maxLength: 12 }), { maxLength: 8 }),
          (rounds) =>
            using(async (under) => {
              const model = new Uint8Array(LENGTH);
              for (const round of rounds) await playRound(under.node, model, round);
              const node = (await under.reopen?.()) ?? under.node;
              const back = new Uint8Array(LENGTH);
              await node.read(0, back);
              assert.ok(Buffer.compare(back, model) === 0);
            }),
        ),
        { numRuns: RUNS },
      );
    });

    if (traits.capabilities.grow) {
      it('grows, and reads zeros there', () =>
        using(async ({ node }) => {
          await node.write(LENGTH - 512, pattern(512, 2));
          await node.driver.truncate?.(LENGTH * 2);
          assert.equal(node.lengthBytes, LENGTH * 2);
          const back = new Uint8Array(1024).fill(7);
          await node.read(LENGTH - 512, back);
          assert.deepEqual(back.slice(0, 512), pattern(512, 2));
          assert.ok(back.subarray(512).every((byte) => byte === 0));
          await node.write(LENGTH * 2 - 10, pattern(10, 3));
        }));
    }

    if (traits.capabilities.makeEmpty) {
      it('drops everything when emptied', () =>
        using(async ({ node }) => {
          await node.write(70_000, pattern(70_000, 4));
          await node.makeEmpty();
          const back = new Uint8Array(LENGTH).fill(1);
          await node.read(0, back);
          assert.ok(back.every((byte) => byte === 0));
          await node.write(70_001, pattern(9, 4));
          await node.makeEmpty();
          await node.makeEmpty();
        }));
    }
  });
}

interface Request {
  readonly verb: 'read' | 'write' | 'zero' | 'flush';
  readonly at: number;
  readonly length: number;
  readonly seed: number;
}

function request(): fc.Arbitrary<Request> {
  return fc.record({
    verb: fc.constantFrom('read', 'write', 'write', 'zero', 'flush'),
    // Few distinct places, so that requests meet in one cluster.
    at: fc.oneof(fc.nat(LENGTH - 1), fc.nat(200_000)),
    length: fc.oneof(fc.integer({ min: 1, max: 2000 }), fc.integer({ min: 1, max: 300_000 })),
    seed: fc.nat(255),
  });
}

/** Runs a round at once. Requests of one round that touch the same bytes are left out: their order is open. */
async function playRound(node: BlockNode, model: Uint8Array, round: readonly Request[]): Promise<void> {
  const taken: { from: number; to: number; verb: string }[] = [];
  const jobs: Promise<void>[] = [];
  for (const { verb, at, length, seed } of round) {
    const to = Math.min(LENGTH, at + length);
    const clash = taken.some(
      (other) => at < other.to && other.from < to && (verb !== 'read' || other.verb !== 'read'),
    );
    if (clash) continue;
    taken.push({ from: at, to, verb });
    if (verb === 'flush') jobs.push(node.flush());
    else if (verb === 'read') jobs.push(expectBytes(node, at, model.slice(at, to)));
    else if (verb === 'zero') {
      model.fill(0, at, to);
      jobs.push(node.writeZeroes(at, to - at, { unmap: seed % 2 === 0 }));
    } else {
      const bytes = pattern(to - at, seed);
      model.set(bytes, at);
      jobs.push(node.write(at, bytes));
    }
  }
  await Promise.all(jobs);
}

async function expectBytes(node: BlockNode, offset: number, want: Uint8Array): Promise<void> {
  const back = new Uint8Array(want.byteLength);
  await node.read(offset, back);
  assert.ok(Buffer.compare(back, want) === 0, `bytes at ${offset}`);
}

/** Bytes that differ from place to place and are never zero. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = ((at * 31 + seed * 7 + (at >> 8)) % 255) + 1;
  return bytes;
}
