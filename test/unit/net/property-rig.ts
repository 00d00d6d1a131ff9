/**
 * A ColoCompare for the property tests, on chardevs in memory that are as unkind as the contract of a chardev allows: a
 * chunk is overwritten as soon as it has been taken, and what was written is copied at once, so bytes that are kept
 * without a copy, or reused too early, show. Its clock and its scans are the test's.
 */
import { ColoCompare } from '../../../src/net/compare/compare.ts';
import type { CheckpointReason, ColoCompareOptions } from '../../../src/net/compare/options.ts';
import { FrameDecoder } from '../../../src/net/framing.ts';
import { MemoryChardev, framed } from './memory-chardev.ts';
import type { WireFrame } from './property-frames.ts';

// Warnings belong to much of what is played here.
process.env['COLO_LOG'] ??= 'silent';

const POISON = 0xee;
const SECONDARY_STREAM = 'red1:1>compare1:2';

/** Gives views on memory that is used again for something else. */
export class UnkindChardev extends MemoryChardev {
  override give(bytes: Uint8Array): void {
    const chunk = Buffer.from(bytes);
    super.give(chunk);
    if (this.reading) chunk.fill(POISON);
  }
}

export interface PropertyRig {
  readonly compare: ColoCompare;
  readonly primary: UnkindChardev;
  readonly secondary: UnkindChardev;
  readonly out: UnkindChardev;
  readonly requests: CheckpointReason[];
  readonly clock: { ms: number };
  /** Bytes that the primary's guest has written on the connection that is read as `primary`. */
  readonly sender: { connected: boolean; bytesOut: number };
  /** What was released since the last call. */
  released(): WireFrame[];
}

export function makePropertyRig(
  hasVnet: boolean,
  options: Partial<ColoCompareOptions> & { readonly hasSender?: boolean } = {},
): PropertyRig {
  const primary = new UnkindChardev('compare0');
  const secondary = new UnkindChardev('compare1');
  secondary.connection = { outgoing: 'compare1:2>red1:1', incoming: SECONDARY_STREAM };
  const out = new UnkindChardev('compare_out');
  const sender = Object.assign(new MemoryChardev('guest'), { bytesOut: 0 });
  const requests: CheckpointReason[] = [];
  const clock = { ms: 0 };
  const { hasSender = false, ...rest } = options;
  const compare = new ColoCompare('comp0', {
    primaryIn: primary,
    secondaryIn: secondary,
    outdev: out,
    vnetHdrSupport: hasVnet,
    now: () => clock.ms,
    expiredScanCycleMs: 1_000_000,
    ...(hasSender ? { findSender: () => sender } : {}),
    ...rest,
  });
  compare.onCheckpointRequest = (reason) => requests.push(reason);
  let fresh: WireFrame[] = [];
  const decoder = new FrameDecoder({
    vnetHdrSupport: hasVnet,
    onFrame: (bytes, from, to, vnetHdrLen) =>
      fresh.push({ bytes: bytes.slice(from, to), vnetHdrLen: hasVnet ? vnetHdrLen : null }),
    onError: (error) => {
      throw error;
    },
  });
  return {
    compare,
    primary,
    secondary,
    out,
    requests,
    clock,
    sender,
    released() {
      fresh = [];
      for (const bytes of out.written.splice(0)) decoder.push(bytes);
      return fresh;
    },
  };
}

/** Name and length of what the secondary has written: its mark, for `peerMarks`. */
export function secondaryMark(bytes: number, stream = SECONDARY_STREAM): { stream: string; bytes: number }[] {
  return [{ stream, bytes }];
}

export function wireBytes(frame: WireFrame): Uint8Array {
  return framed(frame.bytes, frame.vnetHdrLen);
}

/** A checkpoint that is cut where both streams have been read. */
export async function wholeCheckpoint({ compare, secondary }: PropertyRig): Promise<void> {
  compare.stopped('primary');
  await compare.peerMarks('primary', secondaryMark(secondary.bytesIn));
  compare.resumed('primary');
  await compare.commit('primary');
}
