import { MemoryDriver } from '../../src/block/drivers/memory.ts';
import { BlockNode } from '../../src/block/node.ts';
import { describeBlockDriver } from './block-driver.ts';

describeBlockDriver('memory', {
  create: (lengthBytes) => {
    const node = new BlockNode('mem', new MemoryDriver(lengthBytes));
    return Promise.resolve({ node, close: () => node.close() });
  },
  capabilities: { makeEmpty: true, grow: true, status: true },
});
