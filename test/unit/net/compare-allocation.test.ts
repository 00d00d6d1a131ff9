/**
 * In steady state a packet that is held and released leaves no garbage, and nothing stays. Measured by V8's sampling of
 * allocations, which tells bytes, not time; buffers would show as external memory that grows.
 */
import assert from 'node:assert/strict';
import inspector from 'node:inspector';
import { test } from 'node:test';
import { takePacketMemory } from '../../../src/base/packet-memory.ts';
import { ColoCompare } from '../../../src/net/compare/compare.ts';
import { putU32 } from '../../../src/net/packet.ts';
import { tcp, udp } from './frames.ts';
import { MemoryChardev, framed } from './memory-chardev.ts';

/** Accepts all and keeps nothing. */
class Drain extends MemoryChardev {
  count = 0;

  override writePair(): boolean {
    this.count++;
    return true;
  }
}

/** Frames of a chunk: a burst that small queues hold, and one for which they grow. */
const BURSTS = [32, 500] as const;
const SAMPLED_FRAMES = 12_800;
/** A frame's sequence number, behind the length word, Ethernet and IPv4. */
const SEQUENCE_AT = 4 + 14 + 20 + 4;
/** A number that is an object is 16 bytes, a view about 100. What a chunk costs has its share in each frame of it. */
const LIMIT_BYTES = 4;

const MAX_SAMPLES = 20;
/** Some Node.js types lack the options that count what has been collected already. */
const SAMPLING = {
  samplingInterval: 1024,
  includeObjectsCollectedByMajorGC: true,
  includeObjectsCollectedByMinorGC: true,
};

interface Sampled {
  /** Bytes allocated by the files of the comparer, for each frame of the primary. */
  readonly perFrame: number;
  readonly samples: number;
  readonly externalGrowth: number;
}

interface ProfileNode {
  readonly callFrame: { readonly url: string };
  readonly selfSize: number;
  readonly children: readonly ProfileNode[];
}

/** What the files of the comparer have allocated since sampling began. */
async function ownBytes(session: inspector.Session): Promise<number> {
  const head = await new Promise<ProfileNode>((resolve, reject) => {
    session.post('HeapProfiler.stopSampling', (error, result) => {
      if (error) reject(error);
      else resolve(result.profile.head);
    });
  });
  const own = (node: ProfileNode): number =>
    (/\/src\/(net|base)\/|node:buffer/.test(node.callFrame.url) ? node.selfSize : 0) +
    node.children.reduce((sum, child) => sum + own(child), 0);
  return own(head);
}

async function sample(
  frames: readonly Uint8Array[],
  isTcp: boolean,
  isPrimaryFirst: boolean,
): Promise<Sampled> {
  const [primary, secondary, out] = [new MemoryChardev('p'), new MemoryChardev('s'), new Drain('o')];
  // As of a clock: a fraction, which is an object wherever it is handed on.
  let nowMs = 1000.25;
  const compare = new ColoCompare('c', {
    primaryIn: primary,
    secondaryIn: secondary,
    outdev: out,
    now: () => (nowMs += 0.371),
    expiredScanCycleMs: 1_000_000,
  });
  const framedAll = Buffer.concat(frames.map((frame) => framed(frame)));
  // As what sockets read into.
  const chunk = takePacketMemory(framedAll.length);
  chunk.set(framedAll);
  const count = frames.length;
  const frameBytes = chunk.length / count;
  let sequence = 0x7fff0000;
  const round = (): void => {
    if (isTcp) {
      for (let at = 0; at < count; at++) {
        putU32(chunk, at * frameBytes + SEQUENCE_AT, sequence);
        sequence = (sequence + frameBytes - 58) >>> 0;
      }
    }
    (isPrimaryFirst ? primary : secondary).give(chunk);
    (isPrimaryFirst ? secondary : primary).give(chunk);
  };
  const session = new inspector.Session();
  session.connect();
  try {
    const rounds = Math.ceil(SAMPLED_FRAMES / count);
    const warmUp = 2 * rounds;
    for (let at = 0; at < warmUp; at++) round();
    const externalBefore = process.memoryUsage().arrayBuffers;
    let perFrame = Infinity;
    let samples = 0;
    // Code that V8 has not compiled to the end makes objects of numbers, and when it will have is its own affair.
    while (perFrame >= LIMIT_BYTES && samples < MAX_SAMPLES) {
      samples++;
      session.post('HeapProfiler.startSampling', SAMPLING);
      for (let at = 0; at < rounds; at++) round();
      perFrame = Math.min(perFrame, (await ownBytes(session)) / (rounds * count));
    }
    assert.equal(compare.stats.released, (warmUp + samples * rounds) * count);
    assert.deepEqual([compare.heldPackets, compare.secondaryPackets, compare.heldBytes], [0, 0, 0]);
    return { perFrame, samples, externalGrowth: process.memoryUsage().arrayBuffers - externalBefore };
  } finally {
    session.disconnect();
    compare.close();
  }
}

for (const [name, isTcp, bytes] of [
  ['TCP', true, 1460],
  ['TCP acknowledgments and keystrokes', true, 1],
  ['UDP', false, 1000],
] as const) {
  test(`${name}: whoever comes first, nothing is allocated for a packet`, async (t) => {
    for (const count of BURSTS) {
      const payload = (at: number): Uint8Array => Buffer.alloc(bytes, at + 1);
      const frames = Array.from({ length: count }, (_, at) =>
        isTcp ? tcp({ ack: 1, payload: payload(at) }) : udp(payload(at)),
      );
      for (const isPrimaryFirst of [true, false]) {
        const { perFrame, samples, externalGrowth } = await sample(frames, isTcp, isPrimaryFirst);
        t.diagnostic(
          `${count}: ${perFrame.toFixed(1)} bytes a frame (sample ${samples}), ${externalGrowth} of buffers`,
        );
        assert.ok(perFrame < LIMIT_BYTES, `${perFrame} bytes a frame, ${count} in a chunk`);
        assert.ok(externalGrowth < 1024 * 1024, `${externalGrowth} bytes of buffers`);
      }
    }
  });
}
