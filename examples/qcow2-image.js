// Makes a qcow2 image and an overlay on it, writes to both, reads through the overlay, and checks it.
// node qcow2-image.js FOLDER
import path from 'node:path';
import { ParameterError, Qcow2 } from 'colo-ft/qcow2';

const folder = process.argv[2];
if (folder === undefined) throw new Error('usage: node qcow2-image.js FOLDER');
const base = path.join(folder, 'base.qcow2');
const overlay = path.join(folder, 'overlay.qcow2');

await Qcow2.create(base, { sizeBytes: 64 * 2 ** 20 });
const below = await Qcow2.open(base);
await below.write(0, Buffer.from('of the base, '));
await below.flush();
await below.close();

await Qcow2.create(overlay, { sizeBytes: 64 * 2 ** 20, backing: { file: 'base.qcow2', format: 'qcow2' } });
const image = await Qcow2.open(overlay);
await image.write(13, Buffer.from('of the overlay'), { fua: true });
const text = Buffer.alloc(27);
await image.read(0, text);
console.log(text.toString());
await image.writeZeroes(2 ** 20, 2 ** 20);
await image.grow(128 * 2 ** 20);
console.log(`${image.lengthBytes} bytes in clusters of ${image.clusterBytes}, over ${image.backingFile}`);
try {
  await image.grow(1000);
} catch (error) {
  if (!(error instanceof ParameterError)) throw error;
  console.log(error.message);
}
await image.close();

const { errors, leaks, allocatedClusters, totalClusters } = await Qcow2.check(overlay);
console.log(`${errors} errors, ${leaks} leaks, ${allocatedClusters} of ${totalClusters} clusters in use`);
