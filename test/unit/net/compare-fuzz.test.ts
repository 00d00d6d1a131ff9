/**
 * The whole comparer against two hostile guests: no frame crashes it, every bound holds at every moment, and every packet
 * of the primary is released once, dropped and counted, or still held. The floods are of a size that only linear work
 * gets through before the runner's timeout. COLO_FUZZ=N makes it N times as long.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StreamMark } from '../../../src/base/participant.ts';
import type { ColoCompareOptions } from '../../../src/net/compare/options.ts';
import { PacketView } from '../../../src/net/packet.ts';
import { Dice } from '../../helpers/dice.ts';
import { FUZZ, hostileFrame } from './hostile-frames.ts';
import { makeRig, withRig } from './compare-rig.ts';
import type { Rig } from './compare-rig.ts';
import { framed } from './memory-chardev.ts';
import { ipv4, tcp, udp } from './frames.ts';

const SIDES = ['primary', 'secondary'] as const;
const hex = (frame: Uint8Array): string => Buffer.from(frame).toString('hex');

/** Frames of a primary whose fate is known must be all that it sent. */
function checkCounts({ compare }: Rig, what: string): void {
  const { stats } = compare;
  const known = stats.released + stats.releasedByCheckpoint + stats.forwarded + stats.droppedPrimary;
  assert.equal(known + compare.heldPackets, stats.primaryIn, what);
  assert.ok(compare.heldBytes >= 0 && compare.secondaryBytes >= 0, what);
}

/** One frame may be taken while there is still room for less than it, and its record counts too. */
function checkBounds(rig: Rig, largest: number, what: string): void {
  const { compare } = rig;
  assert.ok(compare.connections <= compare.maxConnections, what);
  assert.ok(compare.heldPackets <= 2 * compare.maxQueueSize * compare.maxConnections, what);
  assert.ok(compare.heldBytes + compare.secondaryBytes < compare.maxHeldBytes + 2 * largest + 1024, what);
  checkCounts(rig, what);
}

interface Sent {
  readonly frame: Uint8Array;
  readonly vnetHdrLen: number | null;
}

/** Where the secondary says that it stood; it may lie. */
function hostileMark({ secondary }: Rig, dice: Dice): StreamMark[] {
  const bytes = secondary.bytesIn + dice.pick([0, 0, 0, -100, 100]);
  return [{ stream: secondary.connection?.incoming ?? '', bytes: Math.max(0, bytes) }];
}

async function hostileRun(seed: number): Promise<void> {
  const dice = new Dice(seed);
  const hasVnet = dice.once(3);
  const options: Partial<ColoCompareOptions> = {
    vnetHdrSupport: hasVnet,
    maxFlows: dice.pick([1, 2, 8, 100]),
    maxQueueSize: dice.pick([1, 2, 5, 40]),
    maxHeldBytes: dice.pick([500, 4_000, 60_000]),
    compareTimeoutMs: 100,
  };
  const rig = makeRig(options);
  const { compare } = rig;
  const recent: Sent[] = [];
  const left = new Map<string, number>();
  let largest = 0;
  const next = (): Sent => {
    if (recent.length > 0 && dice.once(2)) return dice.pick(recent);
    const vnetHdrLen = hasVnet ? dice.pick([0, 10, 12, 12, 12, 20, 21, 0xffff_ffff]) : null;
    const lead = vnetHdrLen !== null && vnetHdrLen <= 20 ? dice.bytes(vnetHdrLen) : new Uint8Array(0);
    const sent = { frame: Buffer.concat([lead, hostileFrame(dice)]), vnetHdrLen };
    recent.push(sent);
    if (recent.length > 30) recent.shift();
    return sent;
  };
  const leave = (frames: readonly Uint8Array[]): void => {
    for (const frame of frames) {
      const count = (left.get(hex(frame)) ?? 0) - 1;
      assert.ok(count >= 0, `seed ${seed}: released what was not sent, or twice`);
      left.set(hex(frame), count);
    }
  };
  let isClosing = false;
  try {
    for (let step = 0; step < 300; step++) {
      const what = `seed ${seed}, step ${step}`;
      rig.clock.ms += dice.roll(3);
      const action = dice.roll(40);
      if (action < 18) {
        const { frame, vnetHdrLen } = next();
        largest = Math.max(largest, frame.length);
        left.set(hex(frame), (left.get(hex(frame)) ?? 0) + 1);
        rig.primary.giveFrame(frame, vnetHdrLen);
      } else if (action < 35) {
        const { frame, vnetHdrLen } = next();
        largest = Math.max(largest, frame.length);
        rig.secondary.giveFrame(frame, vnetHdrLen);
      } else if (action === 35) {
        rig.clock.ms += dice.roll(200);
        compare.scan();
      } else if (action === 36 && !isClosing) {
        compare.stopped('primary');
        if (!dice.once(10)) await compare.peerMarks('primary', hostileMark(rig, dice));
        isClosing = true;
      } else if (action === 37 && isClosing) {
        compare.resumed('primary');
        await compare.commit('primary');
        isClosing = false;
      } else if (action === 38 && dice.once(3)) compare.flush();
      else if (action === 39 && dice.once(4)) dice.pick([rig.primary, rig.secondary]).reconnect();
      checkBounds(rig, largest, what);
    }
    leave(rig.released());
    if (isClosing) await compare.commit('primary');
    compare.flush();
    checkCounts(rig, `seed ${seed}, after the flush`);
    assert.deepEqual(
      [compare.heldPackets, compare.heldBytes, compare.secondaryBytes],
      [0, 0, 0],
      `seed ${seed}: a flush leaves nothing`,
    );
    leave(rig.released());
    const { requestsByCause, requests } = compare.stats;
    assert.equal(
      Object.values(requestsByCause).reduce((sum, count) => sum + count),
      requests,
    );
    const unreleased = [...left.values()].reduce((sum, count) => sum + count, 0);
    assert.equal(unreleased, compare.stats.droppedPrimary, `seed ${seed}: lost without a trace`);
  } finally {
    compare.close();
  }
}

test('two hostile guests', async () => {
  for (let seed = 1; seed <= 120 * FUZZ; seed++) await hostileRun(seed);
});

test('nothing leaves while the secondary is silent, and all of it by a checkpoint', async () => {
  for (let seed = 1; seed <= 40 * FUZZ; seed++) {
    const dice = new Dice(seed);
    await withRig(async (rig) => {
      const sent = Array.from({ length: 100 }, () => hostileFrame(dice));
      for (const frame of sent) {
        rig.primary.giveFrame(frame);
        assert.deepEqual(rig.released(), [], `seed ${seed}`);
      }
      await rig.checkpoint();
      assert.deepEqual(rig.released().map(hex).toSorted(), sent.map(hex).toSorted(), `seed ${seed}`);
    });
  }
});

/** The frame with its last byte changed that counts; null where none does. Not for TCP. */
function different(frame: Uint8Array): Uint8Array | null {
  const view = new PacketView();
  const isIp = view.parse(frame) && view.lengthFits;
  // Behind a UDP header alone there is no such byte: its checksum does not count.
  if (view.isTcp || (isIp && view.ipEnd - view.transportAt <= 8)) return null;
  const copy = Uint8Array.from(frame);
  copy[(isIp || view.network === 'arp' ? view.ipEnd : frame.length) - 1]! ^= 0x80;
  return copy;
}

test('nothing leaves while the secondary says something else, but for TCP', async () => {
  for (let seed = 1; seed <= 40 * FUZZ; seed++) {
    const dice = new Dice(seed);
    await withRig((rig) => {
      for (let step = 0; step < 100; step++) {
        const frame = hostileFrame(dice);
        const other = different(frame);
        if (other === null) continue;
        const said = dice.once(2) ? [frame, other] : [other, frame];
        rig[said[0] === frame ? 'primary' : 'secondary'].giveFrame(said[0]!);
        rig[said[0] === frame ? 'secondary' : 'primary'].giveFrame(said[1]!);
        assert.deepEqual(rig.released(), [], `seed ${seed}, step ${step}`);
      }
    });
  }
});

test('two guests that say the same need no checkpoint, whatever it is, but for TCP', async () => {
  const view = new PacketView();
  for (let seed = 1; seed <= 40 * FUZZ; seed++) {
    const dice = new Dice(seed);
    await withRig((rig) => {
      for (let step = 0; step < 100; step++) {
        const frame = hostileFrame(dice);
        view.parse(frame);
        if (view.isTcp) continue;
        for (const side of dice.pick([SIDES, SIDES.toReversed()])) rig[side].giveFrame(frame);
        assert.deepEqual(rig.released().map(hex), [hex(frame)], `seed ${seed}, step ${step}`);
      }
      assert.deepEqual(rig.requests, [], `seed ${seed}`);
    });
  }
});

/** Gives frames in chunks, as a socket would. */
function flood(rig: Rig, side: 'primary' | 'secondary', frames: Iterable<Uint8Array>): void {
  let chunk: Uint8Array[] = [];
  for (const frame of frames) {
    chunk.push(framed(frame));
    if (chunk.length < 500) continue;
    rig[side].give(Buffer.concat(chunk));
    chunk = [];
    assert.ok(rig.compare.connections <= rig.compare.maxConnections);
    assert.ok(rig.compare.heldBytes + rig.compare.secondaryBytes < rig.compare.maxHeldBytes + 4096);
  }
  rig[side].give(Buffer.concat(chunk));
  checkCounts(rig, 'a flood');
}

function* times(count: number, make: (n: number) => Uint8Array): Iterable<Uint8Array> {
  for (let n = 0; n < count; n++) yield make(n);
}

const MANY = 100_000;
/** Frames patched in place: building each anew would take longer than judging it. */
function synFrom(n: number): Uint8Array {
  const frame = SYN.subarray();
  frame.set([n >>> 16, n >>> 8, n], 31);
  return frame;
}
const SYN = tcp({ seq: 1, flags: 'S' });

test('a flood of connections, of either side', () =>
  withRig((rig) => {
    flood(rig, 'secondary', times(MANY, synFrom));
    assert.ok(rig.compare.secondaryPackets <= rig.compare.maxConnections * rig.compare.maxQueueSize);
    flood(
      rig,
      'primary',
      times(MANY, (n) => synFrom(n + MANY)),
    );
    assert.ok(rig.compare.heldPackets <= rig.compare.maxConnections);
    assert.ok(rig.requests.length <= 2, 'one request stands until the next scan');
    rig.compare.scan();
    rig.compare.flush();
    assert.equal(rig.compare.heldPackets, 0);
  }));

for (const [title, order] of [
  ['backwards', (n: number) => MANY - n],
  ['every other one, then the gaps', (n: number) => (n * 2) % (MANY + 1)],
  ['scattered', (n: number) => (n * 48_271) % MANY],
] as const) {
  test(`segments of one byte, ${title}, on one connection of either side`, () =>
    withRig((rig) => {
      const segment = (n: number): Uint8Array => tcp({ seq: 1 + order(n), ack: 1, payload: 'x' });
      flood(rig, 'secondary', times(MANY / 4, segment));
      flood(rig, 'primary', times(MANY / 4, segment));
      rig.compare.scan();
      rig.compare.flush();
      assert.equal(rig.compare.heldPackets, 0);
    }));
}

test('datagrams without twins, all of one length, on one flow', () =>
  withRig((rig) => {
    const body = Buffer.alloc(1400, 'x');
    const datagram = (side: string) => (n: number) => {
      body.write(`${n}${side}`, 1390);
      return udp(body);
    };
    flood(rig, 'secondary', times(20_000, datagram('s')));
    flood(rig, 'primary', times(20_000, datagram('p')));
    // Each of the secondary's that comes is looked at while all of the primary's wait.
    flood(rig, 'secondary', times(20_000, datagram('t')));
    assert.ok(rig.compare.heldPackets <= rig.compare.maxQueueSize);
    assert.equal(rig.compare.stats.released, 0);
  }));

test('tiny fragments and TCP options without end', () =>
  withRig((rig) => {
    const dice = new Dice(1);
    const fragment = (n: number): Uint8Array =>
      ipv4(6, Uint8Array.of(n), { fragment: 0x2000 | (n & 0x1fff), id: n & 0xffff });
    const options = Uint8Array.from({ length: 40 }, (_, at) => [5, 2, 1, 5, 0][at % 5]!);
    const segment = (n: number): Uint8Array => tcp({ seq: n, ack: dice.roll(1000), options, payload: 'x' });
    for (const side of ['primary', 'secondary'] as const) {
      flood(rig, side, times(20_000, fragment));
      flood(rig, side, times(20_000, segment));
    }
    rig.compare.flush();
    assert.equal(rig.compare.heldPackets, 0);
  }));
