/**
 * Writes at random into the image named on the command line until it is killed, and says on standard output what it
 * was told is done: `OFFSET LENGTH VALUE` a line. Several requests are in flight; no two touch the same bytes at once.
 */
import { writeSync } from 'node:fs';
import { BlockGraph } from '../../../src/block/graph.ts';

const image = process.argv[2] ?? '';
const LANES = 6;
const node = await new BlockGraph().openImage(image, { format: 'qcow2' });
const laneBytes = Math.floor(node.lengthBytes / LANES);

async function scribble(lane: number): Promise<void> {
  for (let round = 1; ; round++) {
    const length = 1 + Math.floor(Math.random() * 150_000);
    const offset = lane * laneBytes + Math.floor(Math.random() * (laneBytes - length));
    const value = Math.random() < 0.2 ? 0 : 1 + (round % 255);
    // Announced before and after: what was begun but not ended may show either content.
    writeSync(1, `begin ${offset} ${length} ${value}\n`);
    if (value === 0) await node.writeZeroes(offset, length);
    else await node.write(offset, Buffer.alloc(length, value));
    writeSync(1, `end ${offset} ${length} ${value}\n`);
  }
}

await Promise.all(Array.from({ length: LANES }, (_, lane) => scribble(lane)));
