/** `reconnect-delay` with a qemu-nbd that is killed and started again under load. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { BlockGraph } from '../../../src/block/graph.ts';
import { temporaryDirectory } from '../../unit/nbd/support.ts';
import { missing, startPeer, type Peer } from './peers.ts';

const MIB = 2 ** 20;
const BLOCK = 64 * 1024;
const WORKERS = 12;
const KILLS = 3;

describe('reconnect-delay with qemu-nbd', { skip: missing('qemu-nbd') }, () => {
  it('loses and repeats nothing while the server is killed again and again', async (t) => {
    const directory = await temporaryDirectory(t);
    const [image, path] = [join(directory, 'image'), join(directory, 'socket')];
    const expected = Buffer.alloc(16 * MIB);
    await writeFile(image, expected);
    const start = (): Promise<Peer> => startPeer(t, path, 'qemu-nbd', '-f', 'raw', '-t', '-k', path, image);
    let peer = await start();
    const graph = new BlockGraph();
    t.after(() => graph.closeAll());
    const server = { type: 'unix', path };
    const node = await graph.addNode({ driver: 'nbd', 'node-name': 'disk', server, 'reconnect-delay': '30' });
    let written = 0;
    let wanted = Infinity;
    let reached: () => void = () => undefined;
    const more = (count: number): Promise<void> => {
      wanted = written + count;
      return new Promise((resolve) => (reached = resolve));
    };
    let isOver = false;
    // Each worker has blocks of its own, so that what is read back must be what it wrote last.
    const workers = Array.from({ length: WORKERS }, async (_, worker) => {
      const back = Buffer.alloc(BLOCK);
      for (let round = 0; !isOver; round++) {
        const offset = (((round % 16) * WORKERS + worker) % 256) * BLOCK;
        const bytes = expected.subarray(offset, offset + BLOCK);
        randomFillSync(bytes);
        await node.write(offset, bytes);
        await node.read(offset, back);
        assert.equal(back.compare(bytes), 0);
        if (++written >= wanted) reached();
      }
    });
    for (let kill = 0; kill < KILLS; kill++) {
      await more(100);
      await peer.kill();
      await rm(path);
      peer = await start();
    }
    await more(100);
    isOver = true;
    await Promise.all(workers);
    await node.flush();
    assert.equal((await readFile(image)).compare(expected), 0);
  });
});
