import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/base/errors.ts';
import { PAGE_BYTES } from '../../../src/engine/ram/ram-codec.ts';
import { encodeDevice, parseDevice } from '../../../src/engine/v86/device-codec.ts';
import { checkTree, flattenState, restoreState } from '../../../src/engine/v86/device-tree.ts';
import { GuestClock } from '../../../src/engine/v86/guest-clock.ts';
import { GuestRandom } from '../../../src/engine/v86/guest-random.ts';
import { NetPort } from '../../../src/engine/v86/net-port.ts';
import { MAX_FRAME_BYTES, MAX_WAITING_FRAMES } from '../../../src/engine/v86/protocol.ts';
import { findChangedPages, findNonZeroPages } from '../../../src/engine/v86/ram-diff.ts';
import { SerialPort } from '../../../src/engine/v86/serial-port.ts';

const PAGES = 40;

void describe('RAM changes', () => {
  it('find exactly the pages that differ', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(PAGES - 1)), fc.nat(PAGE_BYTES - 1), (pages, offset) => {
        const [a, b] = [Buffer.alloc(PAGES * PAGE_BYTES), Buffer.alloc(PAGES * PAGE_BYTES)];
        for (const page of pages) b[page * PAGE_BYTES + offset] = 1;
        const wanted = pages.toSorted((x, y) => x - y);
        const out = new Uint32Array(PAGES);
        assert.deepEqual([...out.subarray(0, findChangedPages(a, b, out))], wanted);
        assert.deepEqual([...out.subarray(0, findNonZeroPages(b, out))], wanted);
      }),
      { numRuns: 30 },
    );
  });
});

void describe('Device state', () => {
  const device = (big: Uint8Array): unknown => ({
    get_state: () => [1, undefined, 'x', true, Uint16Array.of(1, 2), [big], new Map([[3, Int8Array.of(-1)]])],
  });

  it('comes back as it was, and changed pages alone travel the second time', () => {
    const big = new Uint8Array(3 * PAGE_BYTES + 5).fill(9);
    const baseline = new Map<string, Uint8Array>();
    const buffers = new Map<string, Uint8Array>();
    const tree = flattenState(device(big), buffers);
    const whole = encodeDevice({ id: 1n, tree, extra: { a: 1 } }, buffers, baseline);
    const there = parseDevice(whole, null);
    big[3 * PAGE_BYTES + 4] = 1; // in the last, short page
    const again = new Map<string, Uint8Array>();
    const delta = encodeDevice(
      { id: 2n, tree: flattenState(device(big), again), extra: null },
      again,
      baseline,
    );
    assert.ok(delta.length < 1000);
    const after = parseDevice(delta, there.buffers);
    const none = (): boolean => false;
    assert.deepEqual(restoreState(after.tree, after.buffers, none), [
      1,
      null,
      'x',
      true,
      Uint16Array.of(1, 2),
      [big],
      new Map([[3, Int8Array.of(-1)]]),
    ]);
    assert.deepEqual(baseline.get('.5.0'), big);
    assert.equal(
      there.buffers.get('.5.0')![3 * PAGE_BYTES + 4],
      9,
      'the state that it builds on is left alone',
    );
    assert.throws(() => parseDevice(delta, null), ProtocolError);
  });

  it('changed anywhere gives a state or a ProtocolError, nothing else', () => {
    const buffers = new Map<string, Uint8Array>();
    const tree = flattenState(device(new Uint8Array(5000)), buffers);
    const good = encodeDevice({ id: 1n, tree, extra: {} }, buffers, null);
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bytes = good.slice();
        bytes[at]! ^= flip;
        try {
          parseDevice(bytes, null);
        } catch (error) {
          assert.ok(error instanceof ProtocolError, String(error));
        }
      }),
    );
  });

  it('of unknown form is refused', () => {
    const all = (): number => 8;
    for (const value of [
      {},
      { type: 'Function' },
      { type: 3 },
      { map: 1 },
      { map: [1] },
      [[{ type: 'toString' }]],
    ]) {
      assert.throws(() => checkTree(value, all), ProtocolError);
    }
    assert.throws(() => checkTree({ type: 'Uint8Array' }, () => undefined), ProtocolError);
    assert.throws(() => checkTree({ type: 'Float64Array' }, () => 7), ProtocolError);
    let deep: unknown = 1;
    for (let at = 0; at < 100; at++) deep = [deep];
    assert.throws(() => checkTree(deep, all), ProtocolError);
  });
});

void describe('The guest clock', () => {
  it('stands still between stop and start, and can be moved', () => {
    let host = 1000;
    const clock = new GuestClock(() => host, 5_000_000);
    assert.equal(clock.now(), 0);
    clock.start();
    host += 5;
    assert.equal(clock.now(), 5);
    clock.stop();
    host += 100;
    assert.equal(clock.now(), 5);
    clock.set(40);
    clock.start();
    host += 2;
    assert.equal(clock.now(), 42);
    assert.equal(clock.epochNow(), 5_000_042);
    assert.equal(clock.at(7, clock.now), 7);
    assert.equal(clock.now(), 42);
  });
});

void describe('The guest’s random numbers', () => {
  it('go on in the same way from a position', () => {
    const [a, b] = [new GuestRandom(), new GuestRandom()];
    for (let at = 0; at < 13; at++) a.next();
    b.position = a.position;
    const [ofA, ofB] = [a, b].map((random) => Array.from({ length: 20 }, random.next));
    assert.deepEqual(ofA, ofB);
    assert.equal(new Set(ofA).size, 20);
  });
});

void describe('A NIC’s incoming side', () => {
  const port = (): { net: NetPort; got: number[]; state: { room: boolean; dropped: number } } => {
    const got: number[] = [];
    const state = { room: true, dropped: 0 };
    const net = new NetPort(
      (frame) => got.push(frame[0]!),
      () => state.room,
      () => state.dropped++,
    );
    return { net, got, state };
  };
  const frame = (n: number): Uint8Array => Uint8Array.of(n, 0, 0, 0);

  it('keeps frames in order through a pause and a lack of room', () => {
    const { net, got, state } = port();
    net.deliver(frame(1));
    assert.deepEqual(got, []);
    net.isOpen = true;
    net.deliver(frame(2));
    net.pump();
    assert.deepEqual(got, [1, 2]);
    state.room = false;
    net.deliver(frame(3));
    assert.equal(net.canPump, false);
    state.room = true;
    net.deliver(frame(4));
    net.pump();
    assert.deepEqual(got, [1, 2, 3, 4]);
  });

  it('drops the oldest beyond the bound, and what is no frame', () => {
    const { net, got, state } = port();
    for (let at = 0; at <= MAX_WAITING_FRAMES; at++) net.deliver(frame(at % 251));
    assert.equal(state.dropped, 1);
    net.isOpen = true;
    net.pump();
    assert.equal(got.length, MAX_WAITING_FRAMES);
    assert.equal(got[0], 1);
    net.deliver(new Uint8Array(0));
    net.deliver(new Uint8Array(MAX_FRAME_BYTES + 1));
    assert.equal(state.dropped, 3);
  });

  it('saves what had arrived before the pause, and puts another’s in its place', () => {
    const { net, got, state } = port();
    net.isOpen = true;
    state.room = false;
    net.deliver(frame(1));
    net.close();
    net.deliver(frame(2));
    assert.deepEqual(
      net.savedFrames().map((saved) => saved[0]),
      [1],
    );
    net.restoreFrames([frame(8), frame(9)]);
    state.room = true;
    net.isOpen = true;
    net.pump();
    assert.deepEqual(got, [8, 9, 2]);
  });
});

void describe('The serial port', () => {
  it('feeds no more than the UART takes, and saves the rest', () => {
    const uart = { input: [] as number[], current_line: '', get_state: () => [], set_state: () => undefined };
    const out: number[] = [];
    const serial = new SerialPort(
      uart,
      (byte) => uart.input.push(byte),
      (bytes) => out.push(...bytes),
    );
    serial.push(Uint8Array.from({ length: 10 }, (_, at) => at));
    serial.push(Uint8Array.from({ length: 10 }, (_, at) => 10 + at));
    serial.pump();
    assert.equal(uart.input.length, 16);
    assert.deepEqual([...serial.savedInput()], [16, 17, 18, 19]);
    serial.restoreInput(Uint8Array.of(77));
    uart.input.length = 0;
    serial.pump();
    assert.deepEqual(uart.input, [77]);
    for (let at = 0; at < 5000; at++) serial.put(at & 0xff);
    serial.flush();
    assert.equal(out.length, 5000);
  });
});
