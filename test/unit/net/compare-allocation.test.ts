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

const FRAMES = 32;
/** A frame's sequence number, behind the length word, Ethernet and IPv4. */
const SEQUENCE_AT = 4 + 14 + 20 + 4;
/** A view is about 100 bytes. */
const LIMIT_BYTES = 40;

interface Sampled {
  /** Bytes allocated by the files of the comparer, for each frame of the primary. */
  readonly perFrame: number;
  readonly externalGrowth: number;
}

interface ProfileNode {
  readonly callFrame: { readonly url: string };
  readonly selfSize: number;
  readonly children: readonly ProfileNode[];
}

async function sample(
  frames: readonly Uint8Array[],
  isTcp: boolean,
  isPrimaryFirst: boolean,
): Promise<Sampled> {
  const [primary, secondary, out] = [new MemoryChardev('p'), new MemoryChardev('s'), new Drain('o')];
  const compare = new ColoCompare('c', {
    primaryIn: primary,
    secondaryIn: secondary,
    outdev: out,
    now: () => 0,
    expiredScanCycleMs: 1_000_000,
  });
  const framedAll = Buffer.concat(frames.map((frame) => framed(frame)));
  // As what sockets read into.
  const chunk = takePacketMemory(framedAll.length);
  chunk.set(framedAll);
  const frameBytes = chunk.length / FRAMES;
  let sequence = 0x7fff0000;
  const round = (): void => {
    if (isTcp) {
      for (let at = 0; at < FRAMES; at++) {
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
    for (let at = 0; at < 600; at++) round();
    const externalBefore = process.memoryUsage().arrayBuffers;
    const rounds = 400;
    // Some Node.js types lack the options that count what has been collected already.
    const options = {
      samplingInterval: 1024,
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    };
    session.post('HeapProfiler.startSampling', options);
    for (let at = 0; at < rounds; at++) round();
    const head = await new Promise<ProfileNode>((resolve, reject) => {
      session.post('HeapProfiler.stopSampling', (error, result) => {
        if (error) reject(error);
        else resolve(result.profile.head);
      });
    });
    const own = (node: ProfileNode): number =>
      (/\/src\/(net|base)\/|node:buffer/.test(node.callFrame.url) ? node.selfSize : 0) +
      node.children.reduce((sum, child) => sum + own(child), 0);
    assert.equal(compare.stats.released, 1000 * FRAMES);
    assert.deepEqual([compare.heldPackets, compare.secondaryPackets, compare.heldBytes], [0, 0, 0]);
    return {
      perFrame: own(head) / (rounds * FRAMES),
      externalGrowth: process.memoryUsage().arrayBuffers - externalBefore,
    };
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
    const payload = (at: number): Uint8Array => Buffer.alloc(bytes, at + 1);
    const frames = Array.from({ length: FRAMES }, (_, at) =>
      isTcp ? tcp({ ack: 1, payload: payload(at) }) : udp(payload(at)),
    );
    for (const isPrimaryFirst of [true, false]) {
      const { perFrame, externalGrowth } = await sample(frames, isTcp, isPrimaryFirst);
      t.diagnostic(`${perFrame.toFixed(1)} bytes a frame, ${externalGrowth} bytes of buffers`);
      assert.ok(perFrame < LIMIT_BYTES, `${perFrame} bytes a frame`);
      assert.ok(externalGrowth < 1024 * 1024, `${externalGrowth} bytes of buffers`);
    }
  });
}
