/** Interim. */
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ColoError } from '../base/errors.ts';
import { coloCommand } from '../base/this-program.ts';
import { createQcow2 } from '../block/drivers/qcow2/create.ts';
import { BlockGraph } from '../block/graph.ts';
import type { VmDisk } from '../ha/index.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { VmDisks } from './parts.ts';

export function localDisks(folder: string): VmDisks {
  const file = path.join(folder, 'disks-interim.json');
  let record: { state: VmDisks['state']; sizes: { id: string; sizeBytes: number }[] } = {
    state: 'none',
    sizes: [],
  };
  try {
    record = JSON.parse(readFileSync(file, 'utf8')) as typeof record;
  } catch {
    // none
  }
  const save = async (): Promise<void> => {
    await writeFile(`${file}.new`, JSON.stringify(record));
    await rename(`${file}.new`, file);
  };
  const paths = (): VmDisk[] =>
    record.sizes.map(({ id, sizeBytes }) => ({
      id,
      sizeBytes,
      image: path.join(folder, `${id}.qcow2`),
      active: path.join(folder, `${id}.active.qcow2`),
      hidden: path.join(folder, `${id}.hidden.qcow2`),
    }));
  return {
    get state() {
      return record.state;
    },
    forStart: async (spec: VmSpec) => {
      await mkdir(folder, { recursive: true });
      if (record.state === 'none') {
        record.sizes = [];
        for (const disk of spec.disks) {
          const image = path.join(folder, `${disk.id}.qcow2`);
          if (disk.image !== undefined) {
            const { command, args } = coloCommand('img', 'convert', '-O', 'qcow2', disk.image, image);
            await promisify(execFile)(command, args);
          } else await createQcow2(image, { sizeBytes: disk.sizeBytes ?? 0 });
          const graph = new BlockGraph();
          const node = await graph.openImage(image, { readOnly: true });
          record.sizes.push({ id: disk.id, sizeBytes: node.lengthBytes });
          await graph.closeImage(node);
        }
      } else if (record.state !== 'whole' && record.state !== 'replica')
        throw new ColoError(`disks are ${record.state}`);
      record.state = 'whole';
      await save();
      return paths();
    },
    forJoin: async (_spec, sizes) => {
      await mkdir(folder, { recursive: true });
      record = { state: 'syncing', sizes: [...sizes] };
      await save();
      for (const disk of paths()) {
        for (const image of [disk.image, disk.active, disk.hidden]) {
          await rm(image, { force: true });
          await createQcow2(image, { sizeBytes: disk.sizeBytes });
        }
      }
      return { disks: paths(), isBitmapEnough: false };
    },
    current: paths,
    mark: async (state) => {
      record.state = state;
      await save();
    },
    purge: async () => {
      await rm(folder, { recursive: true, force: true });
      record = { state: 'none', sizes: [] };
    },
  };
}
