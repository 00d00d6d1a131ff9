// blkdebug hands everything on as long as no rule fits: over memory, and over a file that grows.
import { truncate, writeFile } from 'node:fs/promises';
import { MemoryDriver } from '../../src/block/drivers/memory.ts';
import { Blkdebug } from '../../src/block/filters/blkdebug.ts';
import { BlockNode } from '../../src/block/node.ts';
import { describeBlockDriver } from './block-driver.ts';
import { storedImage } from './stored-image.ts';

describeBlockDriver('blkdebug around a driver', {
  create: (lengthBytes) => {
    const node = new BlockNode('mem', new Blkdebug(new MemoryDriver(lengthBytes)));
    return Promise.resolve({ node, close: () => node.close() });
  },
  capabilities: { makeEmpty: true, grow: true, status: true },
});

describeBlockDriver('blkdebug', {
  create: (lengthBytes) =>
    storedImage(
      async (path) => {
        await writeFile(path, '');
        await truncate(path, lengthBytes);
      },
      (path) => ({
        driver: 'blkdebug',
        image: { filename: path },
        // Rules that fit nothing: an event that never comes, and a range behind the end.
        'inject-error': {
          '0': { event: 'none', iotype: 'block-status', errno: '0', 'delay-ms': '0' },
          '1': { event: 'none', sector: '1000000000', errno: '28' },
        },
      }),
    ),
  capabilities: { grow: true },
});
