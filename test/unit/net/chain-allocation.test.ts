/**
 * A frame that walks the chain leaves no garbage there, however many filters it meets. What is allocated shows on the
 * heap, unless a collection comes between, which can only make it less.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MirrorFilter } from '../../../src/net/filters/mirror.ts';
import { RedirectorFilter } from '../../../src/net/filters/redirector.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { MemoryChardev } from './memory-chardev.ts';

const FRAMES = 20_000;
/** A view is about 100 bytes. */
const LIMIT_BYTES = 20;

/** Accepts all and keeps nothing. */
class Drain extends MemoryChardev {
  count = 0;

  override writePair(): boolean {
    this.count++;
    return true;
  }
}

test('a walk through mirrors and redirectors allocates nothing for a frame', () => {
  const common = { enabled: true, vnetHdrSupport: true } as const;
  const netdev = new Netdev({ id: 'hn0' });
  let delivered = 0;
  netdev.guest = netdev.wire = () => {
    delivered++;
  };
  const [copy, out] = [new Drain('copy'), new Drain('out')];
  netdev.insert(new MirrorFilter('m', { ...common, queue: 'tx', outdev: copy }));
  netdev.insert(
    new RedirectorFilter('in', { ...common, queue: 'all', indev: new MemoryChardev('in'), outdev: null }),
  );
  netdev.insert(
    new RedirectorFilter('off', {
      ...common,
      enabled: false,
      queue: 'all',
      indev: null,
      outdev: new Drain(''),
    }),
  );
  netdev.insert(new RedirectorFilter('out', { ...common, queue: 'rx', indev: null, outdev: out }));
  const frame = new Uint8Array(1500);
  const run = (frames: number): void => {
    for (let count = 0; count < frames; count++) {
      netdev.receiveFromWire(frame);
      netdev.sendFromGuest(frame);
    }
  };
  run(FRAMES);
  const before = process.memoryUsage().heapUsed;
  run(FRAMES);
  const grown = process.memoryUsage().heapUsed - before;
  assert.ok(grown / (2 * FRAMES) < LIMIT_BYTES, `${grown / (2 * FRAMES)} bytes a frame`);
  assert.deepEqual([delivered, copy.count, out.count], [2 * FRAMES, 2 * FRAMES, 2 * FRAMES]);
});
