import { truncate, writeFile } from 'node:fs/promises';
import { describeBlockDriver } from './block-driver.ts';
import { storedImage } from './stored-image.ts';

describeBlockDriver('file', {
  create: (lengthBytes) =>
    storedImage(
      async (path) => {
        await writeFile(path, '');
        await truncate(path, lengthBytes);
      },
      (path) => ({ driver: 'file', filename: path }),
    ),
  capabilities: { grow: true },
});
