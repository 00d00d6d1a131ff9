/** What the comparer keeps packets in: the ring, the pool, the memory of statements. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ByteStore } from '../../../src/net/compare/byte-store.ts';
import { classify } from '../../../src/net/compare/classify.ts';
import { HeldPacket } from '../../../src/net/compare/held-packet.ts';
import { MAX_POOLED_BYTES, PacketPool } from '../../../src/net/compare/packet-pool.ts';
import { Ring } from '../../../src/net/compare/ring.ts';
import {
  MAX_REMEMBERED_STATEMENTS,
  StatementLog,
  StatementMemory,
} from '../../../src/net/compare/statement-memory.ts';
import { PacketView } from '../../../src/net/packet.ts';
import { arpFor, udp } from './frames.ts';

function packetOf(frame: Uint8Array): HeldPacket {
  const view = new PacketView();
  view.parse(frame);
  const packet = new HeldPacket().fill(frame, 0, frame.length, 0, view);
  classify(view, packet);
  return packet;
}

test('a ring is a list', () => {
  const steps = fc.array(
    fc.record({ kind: fc.constantFrom('push', 'shift', 'insert', 'clear'), place: fc.nat(200) }),
    {
      maxLength: 200,
      size: 'max',
    },
  );
  fc.assert(
    fc.property(steps, (all) => {
      const ring = new Ring<number>();
      let list: number[] = [];
      for (const [value, { kind, place }] of all.entries()) {
        const at = place % (list.length + 1);
        if (kind === 'push') {
          ring.push(value);
          list.push(value);
        } else if (kind === 'shift') {
          assert.equal(ring.shift(), list.shift() ?? null);
        } else if (kind === 'insert') {
          ring.insert(at, value);
          list.splice(at, 0, value);
        } else if (place === 0) {
          ring.clear();
          list = [];
        }
        assert.deepEqual(
          [ring.length, ring.first(), ring.last()],
          [list.length, list[0] ?? null, list.at(-1) ?? null],
        );
        assert.deepEqual(
          list,
          list.map((_, index) => ring.get(index)),
        );
      }
    }),
    { numRuns: 100 },
  );
});

test('queues that were long hand their arrays on, and nothing of what was in them', () => {
  const sizes = fc.array(fc.tuple(fc.nat(3), fc.nat(1500), fc.boolean()), { maxLength: 30 });
  fc.assert(
    fc.property(sizes, (all) => {
      const rings = Array.from({ length: 4 }, () => new Ring<number>());
      const lists: number[][] = rings.map(() => []);
      let value = 0;
      for (const [which, size, isCleared] of all) {
        const ring = rings[which]!;
        const list = lists[which]!;
        if (isCleared) {
          ring.clear();
          list.length = 0;
        }
        // Half of it by the front, so that the rest lies across the end of the array.
        for (let at = 0; at < size; at++) {
          ring.push(value);
          list.push(value++);
          if (at % 2 === 1) assert.equal(ring.shift(), list.shift());
        }
      }
      for (const [which, ring] of rings.entries()) {
        for (const item of lists[which]!) assert.equal(ring.shift(), item);
        assert.deepEqual([ring.length, ring.first(), ring.last(), ring.shift()], [0, null, null, null]);
      }
    }),
    { numRuns: 50 },
  );
});

test('a store of bytes keeps what came first, in any order, and gives all its memory back', () => {
  const pieces = fc.array(fc.tuple(fc.nat(120), fc.integer({ min: 1, max: 40 })), { maxLength: 60 });
  fc.assert(
    fc.property(pieces, fc.nat(160), (all, drop) => {
      const base = 0x7fffffc0;
      const store = new ByteStore(new PacketPool());
      const model = new Map<number, number>();
      for (const [value, [at, length]] of all.entries()) {
        const bytes = new Uint8Array(length + 2).fill(value);
        store.insert((base + at) | 0, { bytes, to: length + 1, atMs: 0 }, 1, 1000);
        for (let byte = at; byte < at + length; byte++) if (!model.has(byte)) model.set(byte, value);
        store.own();
      }
      store.dropBefore((base + drop) | 0);
      for (const at of [...model.keys()]) if (at < drop) model.delete(at);
      assert.equal(store.byteLength, model.size);
      for (let at = drop; at < 160; at++) {
        const run: number[] = [];
        for (let byte = at; model.has(byte); byte++) run.push(model.get(byte)!);
        const agreement = store.agree((base + at) | 0, Uint8Array.from([...run, 0]), 0, run.length + 1);
        assert.deepEqual([agreement, store.agreedBytes], ['partial', run.length]);
        if (run.length === 0) continue;
        run[run.length - 1]! ^= 0x80;
        assert.equal(store.agree((base + at) | 0, Uint8Array.from(run), 0, run.length), 'different');
        assert.deepEqual(
          [store.agreedBytes, store.differentByte],
          [run.length - 1, model.get(at + run.length - 1)],
        );
      }
      store.clear();
      assert.deepEqual([store.byteLength, store.heldBytes, store.pieces], [0, 0, 0]);
    }),
    { numRuns: 60 },
  );
});

test('a pool gives buffers again, and keeps no more than its bound', () => {
  const pool = new PacketPool();
  const one = pool.keep(packetOf(udp('x')));
  const { bytes } = one;
  pool.drop(one);
  assert.equal(pool.keep(packetOf(udp('y'))).bytes, bytes);
  const large = packetOf(udp(new Uint8Array(60_000)));
  const kept = Array.from({ length: 100 }, () => pool.keep(large));
  for (const packet of kept) pool.drop(packet);
  assert.ok(pool.unusedBytes > 0 && pool.unusedBytes <= MAX_POOLED_BYTES, `${pool.unusedBytes}`);
});

test('of all statements the oldest are forgotten, whose flow then has fewer', () => {
  const log = new StatementLog(new PacketPool());
  const first = new StatementMemory(log);
  const statement = (at: number): HeldPacket => {
    const frame = arpFor(2);
    frame.set([at >> 8, at], 36);
    return packetOf(frame);
  };
  first.add(statement(0));
  first.add(statement(1));
  for (let at = 1; at < MAX_REMEMBERED_STATEMENTS; at++) new StatementMemory(log).add(statement(at));
  assert.equal(log.count, MAX_REMEMBERED_STATEMENTS);
  assert.deepEqual([first.has(statement(0)), first.has(statement(1))], [false, true]);
  for (let at = 2; at < 8; at++) first.add(statement(at));
  assert.deepEqual([first.has(statement(1)), first.has(statement(7))], [false, true]);
  first.clear();
  assert.equal(log.count, MAX_REMEMBERED_STATEMENTS - 4);
});
