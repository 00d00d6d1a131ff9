/** Rings on plain memory: frames in and out as a driver sees them, and drivers that lie. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../../src/base/errors.ts';
import { FEATURE } from '../../../../src/engine/qemu/vhost/features.ts';
import { MemoryMap } from '../../../../src/engine/qemu/vhost/guest-memory.ts';
import { ReceiveRing, TransmitRing } from '../../../../src/engine/qemu/vhost/net-rings.ts';
import { SplitRing } from '../../../../src/engine/qemu/vhost/split-ring.ts';
import { RamFile, WINDOW_BYTES } from '../../../../src/engine/ram/index.ts';
import { MAX_FRAME_BYTES } from '../../../../src/net/framing.ts';
import { F_INDIRECT, F_NEXT, F_WRITE, FalseDriver, FalseMachine } from './false-driver.ts';
import type { FalseBuffer } from './false-driver.ts';

const RAM_BYTES = 1024 * 1024;
const MODERN = FEATURE.VERSION_1;
const MERGING = FEATURE.VERSION_1 | FEATURE.MRG_RXBUF;
const LEGACY = FEATURE.CSUM;

function drainAll(ring: TransmitRing, budget = 64): Buffer[] {
  const frames: Buffer[] = [];
  const buffer = Buffer.alloc(MAX_FRAME_BYTES);
  ring.drain(budget, buffer, (frame) => frames.push(Buffer.from(frame)));
  return frames;
}

/** Cuts [at, at + length) at the given places. */
function pieces(at: number, length: number, cuts: readonly number[]): FalseBuffer[] {
  const ends = [...new Set(cuts.map((cut) => cut % length))].filter((cut) => cut > 0).sort((a, b) => a - b);
  return [0, ...ends].map((from, index) => ({ address: at + from, length: (ends[index] ?? length) - from }));
}

void describe('transmit ring', () => {
  it('gathers a frame however its buffers are cut, and gives them back', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(MODERN, MERGING, LEGACY),
        fc.uint8Array({ minLength: 14, maxLength: 3000 }),
        fc.array(fc.nat(), { maxLength: 6 }),
        fc.nat(0xffff),
        (features, frame, cuts, index) => {
          const machine = new FalseMachine(RAM_BYTES);
          const driver = new FalseDriver(machine, 4096, 8, index);
          const headerBytes = features === LEGACY ? 10 : 12;
          const header = Buffer.alloc(12, 0x5a);
          machine.ram.set(header.subarray(0, headerBytes), 0x8000);
          machine.ram.set(frame, 0x8000 + headerBytes);
          const head = driver.offer(pieces(0x8000, headerBytes + frame.length, cuts), false);
          const counts = { malformed: 0 };
          const ring = new TransmitRing(driver.ring(machine), features, counts);
          const frames = drainAll(ring);
          header.fill(0, 10);
          assert.deepEqual(frames, [Buffer.concat([header, frame])]);
          assert.deepEqual(driver.collect(), [{ head, length: 0 }]);
          assert.deepEqual(drainAll(ring), []);
          assert.equal(counts.malformed, 0);
          // The ring's own pages alone.
          assert.deepEqual([...machine.written], [1]);
        },
      ),
    );
  });

  it('takes no more in a turn than it may', () => {
    const machine = new FalseMachine(RAM_BYTES);
    const driver = new FalseDriver(machine, 4096, 8);
    for (let count = 0; count < 5; count++) driver.offer([{ address: 0x8000, length: 100 }], false);
    const ring = new TransmitRing(driver.ring(machine), MODERN, { malformed: 0 });
    assert.equal(drainAll(ring, 3).length, 3);
    assert.equal(driver.collect().length, 3);
    assert.equal(drainAll(ring, 3).length, 2);
  });

  it('drops what is no frame, and gives it back', () => {
    const machine = new FalseMachine(RAM_BYTES);
    const driver = new FalseDriver(machine, 4096, 8);
    const counts = { malformed: 0 };
    const ring = new TransmitRing(driver.ring(machine), MODERN, counts);
    for (const length of [0, 11, 12, 25, MAX_FRAME_BYTES + 1, 500_000])
      driver.offer([{ address: 0x8000, length }], false);
    assert.deepEqual(drainAll(ring), []);
    assert.equal(counts.malformed, 6);
    assert.equal(driver.collect().length, 6);
  });
});

void describe('receive ring', () => {
  it('spreads a frame over as many buffers as it takes, where they may be merged', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 14, maxLength: 4000 }),
        fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1, maxLength: 16 }),
        (frame, sizes) => {
          const machine = new FalseMachine(RAM_BYTES);
          const driver = new FalseDriver(machine, 4096, 16);
          const ring = new ReceiveRing(driver.ring(machine), MERGING | FEATURE.GUEST_CSUM);
          const packet = Buffer.concat([Buffer.alloc(12, 1), frame]);
          const places = sizes.map((_, at) => 0x10000 + at * 4096);
          sizes.forEach((length, at) => driver.offer([{ address: places[at]!, length }], true));
          const room = sizes.reduce((sum, size) => sum + size, 0);
          const delivery = ring.deliver(packet);
          const used = driver.collect();
          if (room < packet.length) {
            assert.equal(delivery, 'no room');
            assert.deepEqual(used, []);
            assert.equal(driver.wantsKicks, true);
            return;
          }
          assert.equal(delivery, 'taken');
          assert.equal(driver.wantsKicks, false);
          const got = Buffer.concat(
            used.map(({ length }, at) => machine.ram.subarray(places[at], places[at]! + length)),
          );
          packet.writeUInt16LE(used.length, 10);
          assert.deepEqual(got, packet);
          for (const [at, { length }] of used.entries()) {
            assert.ok(at === used.length - 1 || length === sizes[at], 'only the last one is not full');
          }
          const pages = used.filter(({ length }) => length > 0).map((_, at) => places[at]! >>> 12);
          for (const page of pages) assert.ok(machine.written.has(page));
        },
      ),
    );
  });

  it('puts it into one chain where they may not, or refuses it', () => {
    for (const [features, headerBytes] of [
      [MODERN, 12],
      [LEGACY, 10],
    ] as const) {
      const machine = new FalseMachine(RAM_BYTES);
      const driver = new FalseDriver(machine, 4096, 16);
      const ring = new ReceiveRing(driver.ring(machine), features);
      // Somebody has looked at the checksum, which this guest has not asked to know.
      const packet = Buffer.concat([Buffer.of(2), Buffer.alloc(11), Buffer.alloc(100, 7)]);
      driver.offer(
        [
          { address: 0x8000, length: headerBytes },
          { address: 0x9000, length: 1514 },
        ],
        true,
      );
      driver.offer([{ address: 0xa000, length: 50 }], true);
      assert.equal(ring.deliver(packet), 'taken');
      assert.equal(driver.collect()[0]?.length, headerBytes + 100);
      assert.deepEqual(machine.ram.subarray(0x9000, 0x9064), packet.subarray(12));
      assert.equal(machine.ram[0x8000], 0);
      assert.equal(ring.deliver(packet), 'refused');
      assert.deepEqual(driver.collect(), []);
    }
  });
});

void it('a buffer may lie across the ends of windows and regions of memory', () => {
  const ram = RamFile.create('large', WINDOW_BYTES + RAM_BYTES);
  try {
    const machine = new FalseMachine(ram.byteLength, ram.windows);
    const half = WINDOW_BYTES - 20;
    const map = new MemoryMap(
      [
        { guestAddress: 0, byteLength: half, userAddress: 0, fileOffset: 0 },
        { guestAddress: half, byteLength: RAM_BYTES, userAddress: 0, fileOffset: half },
        { guestAddress: 2 ** 32, byteLength: 4096, userAddress: 0, fileOffset: 0x20000 },
      ],
      ram.byteLength,
    );
    const [sent, received] = [0x1000, 0x3000].map((at) => new FalseDriver(machine, at, 8));
    const { size, descriptors, available, used } = received!;
    const place = { size, descriptors, available, used, next: 0 };
    const receive = new ReceiveRing(new SplitRing(machine.memory, map, place), MODERN);
    const packet = Buffer.from(Array.from({ length: 112 }, (_, at) => (at < 12 ? 0 : at)));
    received!.offer([{ address: half - 30, length: 112 }], true);
    assert.equal(receive.deliver(packet), 'taken');
    packet.writeUInt16LE(1, 10);
    const parts = [ram.windows[0]!.subarray(-50), ram.windows[1]!.subarray(0, 62)];
    assert.deepEqual(Buffer.concat(parts), packet);
    assert.ok([WINDOW_BYTES / 4096 - 1, WINDOW_BYTES / 4096].every((page) => machine.written.has(page)));
    const from = { ...place, descriptors: sent!.descriptors, available: sent!.available, used: sent!.used };
    const transmit = new TransmitRing(new SplitRing(machine.memory, map, from), MODERN, { malformed: 0 });
    sent!.offer([{ address: half - 30, length: 112 }], false);
    ram.windows[0]!.fill(5, 0x20000, 0x20000 + 112);
    sent!.offer([{ address: 2 ** 32, length: 112 }], false);
    packet.fill(0, 10, 12);
    assert.deepEqual(drainAll(transmit), [
      packet,
      Buffer.concat([Buffer.alloc(10, 5), Buffer.alloc(2), Buffer.alloc(100, 5)]),
    ]);
    sent!.offer([{ address: 2 ** 32 + 4000, length: 112 }], false);
    assert.throws(() => drainAll(transmit), ProtocolError);
  } finally {
    ram.close();
  }
});

void describe('a driver that lies', () => {
  const cases: [string, (driver: FalseDriver, machine: FalseMachine) => void][] = [
    [
      'a chain that is a loop',
      (driver) => {
        driver.describe(0, 0x8000, 1, F_NEXT, 1);
        driver.describe(1, 0x8000, 1, F_NEXT, 0);
        driver.push(0);
      },
    ],
    [
      'a chain of nothing that is a loop',
      (driver) => {
        driver.describe(0, 0, 0, F_NEXT, 0);
        driver.push(0);
      },
    ],
    ['a head that is none', (driver) => driver.push(8)],
    [
      'a next that is none',
      (driver) => {
        driver.describe(0, 0x8000, 1, F_NEXT, 0xffff);
        driver.push(0);
      },
    ],
    ['more than there can be', (driver) => driver.claim(9)],
    ['less than nothing', (driver) => driver.claim(0xffff)],
    ['a buffer behind memory', (driver) => driver.offer([{ address: RAM_BYTES - 10, length: 11 }], false)],
    ['a buffer far from memory', (driver) => driver.offer([{ address: 2 ** 52, length: 100 }], false)],
    ['a buffer of 4 GiB', (driver) => driver.offer([{ address: 0, length: 0xffffffff }], false)],
    [
      'an address of 64 bits',
      (driver, { ram }) => {
        driver.offer([{ address: 0, length: 100 }], false);
        ram.fill(0xff, driver.descriptors, driver.descriptors + 8);
      },
    ],
    ['a buffer to write', (driver) => driver.offer([{ address: 0x8000, length: 100 }], true)],
    [
      'an indirect table',
      (driver) => {
        driver.describe(0, 0x8000, 160, F_INDIRECT, 0);
        driver.push(0);
      },
    ],
  ];
  for (const [what, lie] of cases) {
    it(`is not believed: ${what}`, () => {
      const machine = new FalseMachine(RAM_BYTES);
      const driver = new FalseDriver(machine, 4096, 8);
      lie(driver, machine);
      const ring = new TransmitRing(driver.ring(machine), MODERN, { malformed: 0 });
      assert.throws(() => drainAll(ring), ProtocolError);
      assert.deepEqual(driver.collect(), []);
    });
  }

  it('whatever is in its ring: nothing is touched that is not memory, and it ends', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 128, maxLength: 128 }),
        fc.array(fc.nat(9), { maxLength: 8 }),
        fc.nat(0xffff),
        fc.boolean(),
        fc.constantFrom(MODERN, MERGING, LEGACY),
        (table, heads, index, isReceive, features) => {
          const machine = new FalseMachine(64 * 1024);
          const driver = new FalseDriver(machine, 4096, 8, index);
          machine.ram.set(table, driver.descriptors);
          // Mostly in memory, or nothing interesting is reached.
          for (let at = 0; at < 8; at++) {
            const place = driver.descriptors + at * 16;
            machine.ram.fill(0, place + 2, place + 8);
            machine.ram.fill(0, place + 10, place + 12);
            machine.ram[place + 12]! &= isReceive ? F_NEXT | F_WRITE : F_NEXT;
            machine.ram[place + 13] = machine.ram[place + 15] = 0;
            machine.ram[place + 14]! &= 7;
            if (isReceive) machine.ram[place + 12]! |= F_WRITE;
          }
          for (const head of heads) driver.push(head);
          try {
            if (isReceive) {
              const ring = new ReceiveRing(driver.ring(machine), features);
              for (let count = 0; count < 10; count++) ring.deliver(Buffer.alloc(1000, 9));
            } else drainAll(new TransmitRing(driver.ring(machine), features, { malformed: 0 }));
          } catch (error) {
            assert.ok(error instanceof ProtocolError, String(error));
          }
        },
      ),
    );
  });
});
