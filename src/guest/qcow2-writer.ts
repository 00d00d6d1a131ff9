/** Writes a raw disk image out as a sparse qcow2 version 3 file, the same bytes for the same input. */
import { copyImage } from '../block/copy-image.ts';
import { createQcow2 } from '../block/drivers/qcow2/create.ts';
import { BlockGraph } from '../block/graph.ts';

/** Reads the raw image at `rawPath` and writes it as qcow2 to `out`, which is replaced. */
export async function writeQcow2(rawPath: string, out: string): Promise<void> {
  const graph = new BlockGraph();
  try {
    const from = await graph.openImage(rawPath, { format: 'raw', readOnly: true });
    await createQcow2(out, { sizeBytes: from.lengthBytes });
    const to = await graph.openImage(out, { format: 'qcow2' });
    await copyImage(from, to, from.lengthBytes, { targetIsZero: true });
    await to.flush();
  } finally {
    await graph.closeAll();
  }
}
