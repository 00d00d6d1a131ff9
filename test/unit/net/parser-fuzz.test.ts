/**
 * The frame decoder and the packet parser against hostile bytes: what they find does not depend on how the bytes came or
 * on what lies around them, and never leaves the frame. COLO_FUZZ=N makes it N times as long.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FrameDecoder, MAX_FRAME_BYTES } from '../../../src/net/framing.ts';
import { PacketView, u32 } from '../../../src/net/packet.ts';
import { Dice } from '../../helpers/dice.ts';
import { FUZZ, hostileFrame } from './hostile-frames.ts';

interface Heard {
  readonly frames: string[];
  readonly errors: number;
  readonly zeroLength: number;
}

/** What a stream holds, the plain way: all of it in one place. */
function read(stream: Uint8Array, hasVnet: boolean): Heard {
  const headerBytes = hasVnet ? 8 : 4;
  const frames: string[] = [];
  let zeroLength = 0;
  let at = 0;
  while (at + headerBytes <= stream.length) {
    const length = u32(stream, at);
    if (length > MAX_FRAME_BYTES) return { frames, errors: 1, zeroLength };
    const from = at + headerBytes;
    if (from + length > stream.length) break;
    if (length === 0) zeroLength++;
    else
      frames.push(
        `${hasVnet ? u32(stream, at + 4) : 0} ${Buffer.from(stream.subarray(from, from + length)).toString('hex')}`,
      );
    at = from + length;
  }
  return { frames, errors: 0, zeroLength };
}

function hostileStream(dice: Dice, hasVnet: boolean): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let n = dice.roll(30); n > 0; n--) {
    const frame = dice.once(40)
      ? dice.bytes(MAX_FRAME_BYTES)
      : dice.once(10)
        ? new Uint8Array(0)
        : hostileFrame(dice);
    const header = new Uint8Array(hasVnet ? 8 : 4);
    const told = dice.once(60)
      ? dice.pick([0, 1, 0xffff_ffff, MAX_FRAME_BYTES + 1, 0x8000_0000])
      : frame.length;
    new DataView(header.buffer).setUint32(0, told);
    if (hasVnet) new DataView(header.buffer).setUint32(4, dice.pick([0, 10, 12, 20, 21, 0xffff_ffff]));
    parts.push(header, frame);
  }
  const whole = Buffer.concat(parts);
  return dice.once(3) ? whole.subarray(0, dice.roll(whole.length + 1)) : whole;
}

test('a stream holds the same frames, however it is cut', () => {
  for (let seed = 1; seed <= 150 * FUZZ; seed++) {
    const dice = new Dice(seed);
    const hasVnet = dice.once(2);
    const stream = hostileStream(dice, hasVnet);
    const frames: string[] = [];
    let errors = 0;
    let seen = 0;
    const decoder = new FrameDecoder({
      vnetHdrSupport: hasVnet,
      onFrame: (bytes, from, to, vnetHdrLen) => {
        assert.ok(from >= 0 && to <= bytes.length && to - from <= MAX_FRAME_BYTES);
        frames.push(`${vnetHdrLen} ${Buffer.from(bytes.subarray(from, to)).toString('hex')}`);
      },
      onError: () => errors++,
    });
    const largest = dice.pick([1, 3, 50, 2000, 70_000]);
    // Bytewise through large frames would only take long.
    const least = stream.length > 10_000 ? 100 : 1;
    while (seen < stream.length) {
      const size = Math.min(stream.length - seen, Math.max(least, 1 + dice.roll(largest)));
      // The caller's buffer changes as soon as `push` has returned.
      const chunk = Uint8Array.from(stream.subarray(seen, seen + size));
      decoder.push(chunk);
      chunk.fill(0xee);
      seen += size;
    }
    const found: Heard = { frames, errors, zeroLength: decoder.zeroLengthFrames };
    assert.deepEqual(found, read(stream, hasVnet), `seed ${seed}`);
    assert.equal(decoder.dead, errors === 1, `seed ${seed}`);
    assert.ok(decoder.consumedBytes <= stream.length);
  }
});

function keyOf({ key }: PacketView): number[] {
  const { s0, s1, s2, s3, d0, d1, d2, d3, ports, protocol, etherType, vlan } = key;
  return [s0, s1, s2, s3, d0, d1, d2, d3, ports, protocol, etherType, vlan];
}

/** All that a view says, with offsets from the frame's first byte. */
function told(view: PacketView): string {
  const { from } = view;
  const offsets =
    view.network === 'ipv4' || view.network === 'ipv6'
      ? [view.ipAt - from, view.ipHeaderBytes, view.ipEnd - from, view.transportAt - from, view.lengthFits]
      : [];
  const segment = view.isTcp
    ? [
        view.payloadAt - from,
        view.payloadBytes,
        view.sequence,
        view.acknowledgment,
        view.tcpFlags,
        view.tcpHeaderBytes,
      ]
    : [];
  const { network, etherType, vlanTags, protocol, fragment, sourcePort, destinationPort } = view;
  const plain = [network, etherType, vlanTags, protocol, fragment, sourcePort, destinationPort];
  return JSON.stringify([plain, offsets, segment, keyOf(view)]);
}

test('a frame is what its own bytes say, whatever lies around it, and offsets stay within', () => {
  const alone = new PacketView();
  let segments = 0;
  for (let seed = 1; seed <= 8_000 * FUZZ; seed++) {
    const dice = new Dice(seed);
    const vnet = dice.pick([0, 0, 0, 10, 12, 20, 21, 60, 0xffff_ffff]);
    const lead = vnet <= 20 ? dice.bytes(vnet) : new Uint8Array(0);
    const frame = Buffer.concat([lead, hostileFrame(dice)]);
    alone.parse(frame, vnet);
    const around = [dice.bytes(dice.roll(50)), frame, dice.bytes(dice.roll(50))];
    const from = around[0]!.length;
    // A new view: nothing may be left in the other one from frames before.
    const amid = new PacketView();
    amid.parse(Buffer.concat(around), vnet, from, from + frame.length);
    assert.equal(told(amid), told(alone), `seed ${seed}`);
    if (alone.network === 'ipv4' || alone.network === 'ipv6') {
      assert.ok(alone.ipAt + alone.ipHeaderBytes <= alone.transportAt, `seed ${seed}`);
      assert.ok(alone.transportAt <= alone.ipEnd && alone.ipEnd <= frame.length, `seed ${seed}`);
    }
    if (alone.isTcp) {
      segments++;
      assert.ok(
        alone.payloadBytes >= 0 && alone.payloadAt + alone.payloadBytes === alone.ipEnd,
        `seed ${seed}`,
      );
      assert.ok(alone.payloadAt - alone.transportAt === alone.tcpHeaderBytes, `seed ${seed}`);
      assert.ok(alone.lengthFits && alone.fragment === 0, `seed ${seed}`);
    }
  }
  assert.ok(segments > 1000 * FUZZ, `${segments} segments: the frames are too hostile to be of use`);
});
