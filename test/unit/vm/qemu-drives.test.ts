/** -drive on a stock QEMU: what is our block layer's, what QEMU's, and how unnamed drives are called (names asked of QEMU 7.2). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { planQemuDrives } from '../../../src/vm/qemu-drives.ts';
import type { QemuDrivePlan } from '../../../src/vm/qemu-drives.ts';
import { planQemu } from '../../../src/vm/qemu-plan.ts';

const config = (line: string): ReturnType<typeof parseCommandLine> =>
  parseCommandLine(['-accel', 'tcg', ...line.split(' ')]);
const plan = (line: string, machine = 'pc'): QemuDrivePlan[] => planQemuDrives(config(line).drives, machine);
const ids = (line: string, machine?: string): string[] => plan(line, machine).map(({ id }) => id);

test('unnamed drives are called as QEMU calls them', () => {
  assert.deepEqual(ids('a -hdb b -hdc c -hdd d'), ['ide0-hd0', 'ide0-hd1', 'ide1-hd0', 'ide1-hd1']);
  assert.deepEqual(ids('-cdrom c -fda f -fdb g -pflash p'), ['ide1-cd0', 'floppy0', 'floppy1', 'pflash0']);
  assert.deepEqual(ids('-drive file=a -drive file=b,index=2 -drive file=c -drive file=d'), [
    ...['ide0-hd0', 'ide1-hd0', 'ide0-hd1', 'ide1-hd1'],
  ]);
  assert.deepEqual(ids('-drive file=a,if=virtio,index=3 -drive file=b,if=virtio -drive file=c,if=none'), [
    ...['virtio3', 'virtio0', 'none0'],
  ]);
  assert.deepEqual(ids('-drive file=a,if=scsi,index=8 -drive file=b,if=scsi,media=cdrom'), [
    'scsi1-hd1',
    'scsi0-cd0',
  ]);
  assert.deepEqual(ids('-cdrom c -drive file=d,bus=3', 'q35'), ['ide2-cd0', 'ide3-hd0']);
});

test('each option goes to whom it concerns', () => {
  const [drive] = plan(
    '-drive file=a,format=raw,if=virtio,cache=writethrough,werror=stop,rerror=ignore,discard=unmap,detect-zeroes=on,' +
      'aio=native,throttling.iops-total=100,bps_rd=5,node-name=n,id=x',
  );
  assert.deepEqual(
    { ...drive?.options },
    {
      ...{ file: 'a', format: 'raw', cache: 'writeback', discard: 'unmap', 'detect-zeroes': 'on' },
      ...{ aio: 'native', 'node-name': 'n', id: 'x' },
    },
  );
  assert.deepEqual(drive?.forQemu, [
    ...[
      'if=virtio',
      'bus=0',
      'unit=0',
      'werror=stop',
      'rerror=ignore',
      'throttling.iops-total=100',
      'bps_rd=5',
    ],
    'cache.writeback=off',
  ]);
});

test('of caches the write cache goes to QEMU, flushing to both', () => {
  const of = (cache: string): unknown => {
    const [drive] = plan(`-drive file=a,${cache}`);
    const { cache: mode, ...rest } = drive?.options ?? {};
    const more = Object.keys(rest).filter((key) => key.startsWith('cache'));
    return [mode, more, drive?.forQemu.filter((one) => one.startsWith('cache')), drive?.warnings.length];
  };
  assert.deepEqual(of('cache=writeback'), ['writeback', [], [], 0]);
  assert.deepEqual(of('cache=unsafe'), ['unsafe', [], ['cache.no-flush=on'], 0]);
  assert.deepEqual(of('cache=none'), ['writeback', [], [], 1]);
  assert.deepEqual(of('cache=directsync'), ['writeback', [], ['cache.writeback=off'], 1]);
  assert.deepEqual(of('cache.direct=on,cache.writeback=off'), [undefined, [], ['cache.writeback=off'], 1]);
  assert.deepEqual(of('cache.no-flush=on'), [undefined, ['cache.no-flush'], ['cache.no-flush=on'], 0]);
});

test('a drive without a medium goes to QEMU, one without a device stays ours, flash of the machine is a node', () => {
  const { disks, args, drives } = planQemu(
    config(
      '-machine pc,pflash0=code -blockdev driver=file,filename=f,node-name=code -drive if=ide,media=cdrom,index=1 ' +
        '-drive if=none,file=a,id=unused -drive if=none,file=b,id=used -device virtio-blk-pci,drive=used,id=v',
    ),
  );
  assert.ok(args.includes('if=ide,bus=0,unit=1,media=cdrom,id=ide0-cd1'));
  assert.deepEqual(
    disks.map(({ drive, driver, deviceId, how }) => [drive, driver, deviceId, how]),
    [
      ['used', 'virtio-blk-pci', 'v', 'drive'],
      ['code', 'pflash0', null, 'blockdev'],
    ],
  );
  assert.deepEqual(
    drives.filter(({ options }) => options !== null).map(({ id }) => id),
    ['unused', 'used'],
  );
});
