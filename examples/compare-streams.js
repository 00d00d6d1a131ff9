// Compares what two machines send, as colo-compare does: frames of the primary leave when the secondary has said the same.
// The streams are as QEMU's filter-mirror writes them to a socket; here they are made up.
// node compare-streams.js
import { Readable } from 'node:stream';
import { PacketComparer, encodeFrame, readFrames } from 'colo-ft/compare';

/** A UDP datagram from 10.0.0.1:7 to 10.0.0.2:9; checksums are held against nobody, so they stay empty. */
function datagram(/** @type {string} */ text) {
  const frame = Buffer.alloc(42 + text.length);
  frame.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00]);
  frame.set([0x45, 0, 0, 28 + text.length, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], 14);
  frame.set([0, 7, 0, 9, 0, 8 + text.length, 0, 0], 34);
  frame.write(text, 42);
  return frame;
}

const streamOf = (/** @type {string[]} */ ...texts) =>
  Readable.from(texts.map((text) => encodeFrame(datagram(text))));
const primary = streamOf('tick 1', 'tick 2', 'tick 3');
const secondary = streamOf('tick 1', 'tick 2', 'tock 3');

const comparer = new PacketComparer({
  onRelease: (frame) => console.log(`out: ${Buffer.from(frame).toString('latin1', 42)}`),
  onCheckpointNeeded: ({ cause, flow, difference }) =>
    console.log(`checkpoint: ${cause} of ${flow}, at byte ${difference?.packetOffset}`),
});
for await (const { bytes } of readFrames(primary)) comparer.fromPrimary(bytes);
console.log(`${comparer.heldFrames} frames wait`);
for await (const { bytes } of readFrames(secondary)) comparer.fromSecondary(bytes);
console.log(`${comparer.heldFrames} frame waits`);

// Both machines stand still; the primary's state is copied over the secondary's.
comparer.beginCheckpoint();
comparer.commitCheckpoint();
const { released, releasedByCheckpoint } = comparer.stats;
console.log(`${released} were said by both, ${releasedByCheckpoint} left by the checkpoint`);
comparer.close();
