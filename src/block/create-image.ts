/**
 * New images for jobs that make their target themselves (drive-mirror, drive-backup with mode=absolute-paths): a sparse
 * raw file or an empty qcow2 image. Texts: QEMU block.c (bdrv_img_create), asked of QEMU 7.2.
 */
import { open } from 'node:fs/promises';
import { ColoError, messageOf } from '../base/errors.ts';
import { systemErrorText } from '../chardev/system-errors.ts';
import { FileDriver } from './drivers/file.ts';
import { blockDrivers } from './drivers/index.ts';
import { createQcow2 } from './drivers/qcow2/create.ts';
import type { BlockNode } from './node.ts';
import { parseFilename } from './probe.ts';

export interface NewImage {
  readonly format: string;
  readonly sizeBytes: number;
  /** The image below it: a file name and its format. */
  readonly backing?: { readonly file: string; readonly format: string };
}

/** Makes the image, replacing what was there. Throws ColoError. */
export async function createImage(name: string, image: NewImage): Promise<void> {
  const { format, sizeBytes, backing } = image;
  if (format !== 'raw' && format !== 'qcow2') {
    const known = blockDrivers.has(format);
    throw new ColoError(
      known ? `Format driver '${format}' does not support image creation` : `Unknown file format '${format}'`,
    );
  }
  const { driver, filename } = parseFilename(name);
  if (driver !== 'file' || typeof filename !== 'string') {
    const protocol = typeof driver === 'string' ? driver : name;
    throw new ColoError(
      `Protocol driver '${protocol}' does not support image creation; make the target there and use mode=existing`,
    );
  }
  if (format === 'raw' && backing) throw new ColoError(`Backing file not supported for file format 'raw'`);
  await open(filename, 'a')
    .then((handle) => handle.close())
    .catch((error: unknown) => {
      throw new ColoError(`Could not create '${filename}': ${systemErrorText(error)}`, { cause: error });
    });
  try {
    if (format === 'raw') await createRaw(filename, sizeBytes);
    else {
      const below = backing ? { backingFile: backing.file, backingFormat: backing.format } : {};
      await createQcow2(filename, { sizeBytes, ...below });
    }
  } catch (error) {
    throw error instanceof ColoError
      ? error
      : new ColoError(`Could not create '${filename}': ${messageOf(error)}`, { cause: error });
  }
}

async function createRaw(filename: string, sizeBytes: number): Promise<void> {
  const file = await FileDriver.open(filename);
  try {
    await file.truncate(0);
    await file.truncate(sizeBytes);
  } finally {
    await file.close();
  }
}

/** The file that a node's image is in, by its `file` children; null when it is in none. */
export function fileNameOf(node: BlockNode): string | null {
  let at: BlockNode | undefined = node;
  while (at && !(at.driver instanceof FileDriver)) at = at.driver.children().get('file');
  return at?.driver instanceof FileDriver ? at.driver.filename : null;
}
