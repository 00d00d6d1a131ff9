/** Ways to name a disk on a stock QEMU: query-block and query-blockstats tell the devices that QEMU by itself tells. */
import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { testFolder } from '../../helpers/bare-process.ts';
import { askQemu, qemuVm, skipQemu72 as skip } from '../../helpers/qemu-vm.ts';

type Members = Record<string, unknown>;

/** Of an element of query-block what does not depend on how QEMU reaches the image. */
function seen(device: Members): Members {
  const { inserted, ...rest } = device;
  // Numbered in the order in which QEMU made them: it depends on the machine's other devices.
  const qdev = String(rest['qdev']).replace(/unattached\/device\[\d+\]/, 'unattached/device[]');
  if (inserted === undefined) return { ...rest, qdev };
  const { ro, cache } = inserted as { ro: boolean; cache: Members };
  return { ...rest, qdev, ro, cache };
}

const byDevice = (a: Members, b: Members): number =>
  `${String(a['device'])} ${String(a['qdev'])}` < `${String(b['device'])} ${String(b['qdev'])}` ? -1 : 1;

const LINES: readonly (readonly [what: string, line: string])[] = [
  ['nothing but what QEMU adds', ''],
  ['the short forms', '-hdb b.raw -hdc c.raw -fda d.raw a.raw'],
  ['a CD-ROM', '-hda a.raw -cdrom b.raw'],
  ['no medium', '-drive if=ide,index=3,media=cdrom -drive if=none,id=tray -device ide-cd,drive=tray,id=cd'],
  [
    'without names, everywhere',
    '-drive file=a.raw,format=raw -drive file=b.raw,format=raw,if=virtio -drive file=c.raw,format=raw,if=none ' +
      '-drive file=d.raw,format=raw,if=floppy -drive file=e.raw,format=raw,if=virtio,index=4 ' +
      '-drive file=f.raw,format=raw,bus=1,unit=1,media=cdrom',
  ],
  [
    'with names, places and caches',
    '-drive file=a.raw,format=raw,id=first,index=1,cache=writethrough,werror=stop,rerror=report ' +
      '-drive file=b.raw,format=raw,if=none,id=second,cache=unsafe,readonly=on ' +
      '-device virtio-blk-pci,drive=second,id=vd ' +
      '-drive file=c.raw,format=raw,if=none,id=third,detect-zeroes=unmap,discard=unmap,aio=threads ' +
      '-device virtio-scsi-pci,id=scsi -device scsi-hd,drive=third,bus=scsi.0,serial=s123 ' +
      '-drive file=d.raw,format=raw,if=none,id=stick -device piix3-usb-uhci -device usb-storage,drive=stick',
  ],
  [
    'nodes',
    '-blockdev driver=file,filename=a.raw,node-name=n0 -device virtio-blk-pci,drive=n0,id=v0 ' +
      '-blockdev driver=raw,node-name=n1,file.driver=file,file.filename=b.raw -device ide-hd,drive=n1,write-cache=off ' +
      '-blockdev driver=raw,node-name=n2,read-only=on,file.driver=file,file.filename=c.raw -device ide-cd,drive=n2 ' +
      '-blockdev driver=raw,node-name=n3,file.driver=file,file.filename=d.raw -device ich9-ahci,id=ahci -device ide-hd,bus=ahci.0,drive=n3,serial=s',
  ],
  ['q35', '-machine q35 -hda a.raw -cdrom b.raw -drive file=c.raw,format=raw,bus=3,unit=0'],
];

for (const [what, line] of LINES) {
  test(`the devices are those of QEMU: ${what}`, { skip }, async (t) => {
    const home = await testFolder(t);
    const words = line
      .split(' ')
      .flatMap((word) => (word === '' ? [] : [word.replaceAll(/\b([a-f]\.raw)\b/g, `${home}/$1`)]));
    for (const name of 'abcdef') {
      writeFileSync(path.join(home, `${name}.raw`), '');
      truncateSync(path.join(home, `${name}.raw`), 1 << 20);
    }
    const asked = ['query-block', 'query-blockstats'];
    const theirs = askQemu(words, asked);
    assert.ok(Array.isArray(theirs), String(theirs));
    const { execute } = await qemuVm(t, words);
    const [devices, stats] = await Promise.all(asked.map((command) => execute(command)));
    const sorted = (list: unknown): Members[] => (list as Members[]).map(seen).sort(byDevice);
    assert.deepEqual(sorted(devices), sorted(theirs[0]));
    const names = (list: unknown): unknown[] => (list as Members[]).map((one) => one['device']).sort();
    assert.deepEqual(names(stats), names(theirs[1]));
  });
}

const REFUSED: readonly (readonly [line: string, text: RegExp])[] = [
  ['-drive if=foo', /unsupported bus type 'foo'/],
  ['-drive media=foo', /'foo' invalid media/],
  ['-drive index=1,unit=1', /index cannot be used with bus and unit/],
  ['-drive bus=0,unit=2', /unit 2 too big \(max is 1\)/],
  ['-drive index=a', /Parameter 'index' expects a number/],
  ['-drive serial=x', /Block format 'raw' does not support the option 'serial'/],
  ['-drive index=0', /drive with bus=0, unit=0 \(index=0\) exists/],
];
test('what QEMU refuses is refused in its words', { skip }, async (t) => {
  const home = await testFolder(t);
  const file = path.join(home, 'a.raw');
  writeFileSync(file, new Uint8Array(1 << 20));
  for (const [line, text] of REFUSED) {
    const words = ['-hda', file, ...`${line},file=${file},format=raw`.split(' ')];
    assert.match(String(askQemu(words, ['query-block'])), text, line);
    await assert.rejects(qemuVm(t, words), text, line);
  }
});
