/** Jobs on a disk of a guest that QEMU executes and that writes all the time; and what cannot be done to such a disk. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { testFolder } from '../../helpers/bare-process.ts';
import { RING_SECTORS, countingSector, lineOf, offsetOf } from '../../helpers/counting-guest.ts';
import { qemuVm, skipQemu as skip } from '../../helpers/qemu-vm.ts';
import type { QemuVm } from '../../helpers/qemu-vm.ts';

async function event(machine: QemuVm, name: string): Promise<void> {
  while (!machine.events.some((one) => one.event === name)) await delay(5);
}

for (const [how, words] of [
  ['a drive', (image: string) => ['-drive', `id=n0,file=${image},format=raw`]],
  [
    'a node',
    (image: string) => [
      '-blockdev',
      `driver=raw,node-name=n0,file.driver=file,file.filename=${image}`,
      '-device',
      'ide-hd,drive=n0,id=disk,bus=ide.0',
    ],
  ],
] as const) {
  test(`${how} is mirrored, switched over and copied while the guest writes`, { skip }, async (t) => {
    const home = await testFolder(t);
    const [image, target, copy, console] = ['image', 'target', 'copy', 'console'].map((name) =>
      path.join(home, name),
    ) as [string, string, string, string];
    writeFileSync(image, Buffer.concat([countingSector(), Buffer.alloc((4 << 20) - 512)]));
    const plain = ['-nodefaults', '-vga', 'none', '-serial', `file:${console}`];
    const machine = await qemuVm(t, [...plain, ...words(image)]);
    const { execute } = machine;
    /** The last number whose line is whole. */
    const said = (): number => Number.parseInt(readFileSync(console, 'latin1').split('\n').at(-2) ?? '0', 16);
    const goesOn = async (): Promise<void> => {
      const now = said();
      while (!(said() > now + 20)) await delay(5);
    };
    await execute('cont');
    while (!(said() > 0)) await delay(5);
    const resize = { [how === 'a node' ? 'node-name' : 'device']: 'n0', size: 8 << 20 };
    await assert.rejects(execute('block_resize', resize), /reads its size at start/);
    const job = { device: 'n0', 'job-id': 'job', format: 'raw', sync: 'full' };
    await execute('drive-backup', { ...job, target: copy });
    await goesOn();
    await event(machine, 'BLOCK_JOB_COMPLETED');
    machine.events.length = 0;
    await execute('drive-mirror', { ...job, target });
    await event(machine, 'BLOCK_JOB_READY');
    await goesOn();
    await execute('block-job-complete', { device: 'job' });
    await event(machine, 'BLOCK_JOB_COMPLETED');
    await goesOn();
    const devices = (await execute('query-block')) as { inserted?: { file: string } }[];
    assert.deepEqual(
      devices.flatMap(({ inserted }) => inserted?.file ?? []),
      [target],
    );
    await execute('stop');
    const last = said();
    const text = readFileSync(console, 'latin1').replaceAll('\r', '');
    assert.ok(text.startsWith(Array.from({ length: last }, (_, at) => lineOf(at + 1)).join('')));
    const content = readFileSync(target);
    const written = Math.max(content.readUInt32LE(offsetOf(last + 1)), last);
    for (let n = written - RING_SECTORS + 1; n <= written; n++) {
      if (n > 0) assert.equal(content.readUInt32LE(offsetOf(n)), n);
    }
    assert.ok(readFileSync(image).readUInt32LE(offsetOf(last)) < last, 'the old image is written to no more');
  });
}
