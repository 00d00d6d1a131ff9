import { NbdDriver } from '../../src/block/drivers/nbd.ts';
import { MemoryDriver } from '../../src/block/drivers/memory.ts';
import { BlockNode } from '../../src/block/node.ts';
import { NbdClient, NbdServer } from '../../src/nbd/index.ts';
import { describeBlockDriver } from './block-driver.ts';

// Our own server in between: the suite runs over the wire in both directions.
describeBlockDriver('nbd', {
  create: async (lengthBytes) => {
    const source = new BlockNode('mem', new MemoryDriver(lengthBytes));
    const server = new NbdServer();
    server.addExport({ name: 'disk', source, writable: true });
    const address = await server.listen({ host: '127.0.0.1', port: 0 });
    const node = new BlockNode(
      'nbd',
      new NbdDriver(await NbdClient.connect(address, { exportName: 'disk' }), false),
    );
    const close = async (): Promise<void> => {
      await node.close();
      await server.close();
      await source.close();
    };
    return { node, close };
  },
  capabilities: { status: true },
});
