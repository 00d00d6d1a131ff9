/** An image in a temporary directory under test, opened through the graph and opened again on demand. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockGraph } from '../../src/block/graph.ts';
import type { OptionTree } from '../../src/block/options.ts';
import type { DriverUnderTest } from './block-driver.ts';

/** `make` writes the image file; `options` are those of the node above the file name. */
export async function storedImage(
  make: (path: string) => Promise<void>,
  options: (path: string) => OptionTree,
  afterClose: (path: string) => Promise<void> = () => Promise.resolve(),
): Promise<DriverUnderTest> {
  const folder = await mkdtemp(join(tmpdir(), 'colo-image-'));
  const path = join(folder, 'disk.img');
  await make(path);
  const graph = new BlockGraph();
  const node = await graph.addNode({ ...options(path), 'node-name': 'n' });
  return {
    node,
    close: async () => {
      await graph.closeAll();
      await afterClose(path);
      await rm(folder, { recursive: true, force: true });
    },
    reopen: async () => {
      await graph.removeNode('n');
      await afterClose(path);
      return graph.addNode({ ...options(path), 'node-name': 'n' });
    },
  };
}
