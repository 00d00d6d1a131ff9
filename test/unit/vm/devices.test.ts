// -device and -drive on a machine whose parts are fixed: the nearest one with a warning, or an error that names the option.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { planDevices } from '../../../src/vm/devices.ts';
import type { DevicePlan } from '../../../src/vm/devices.ts';
import { planDrives } from '../../../src/vm/disk-options.ts';
import type { PlannedDrive } from '../../../src/vm/disk-options.ts';

const devices = (line: string, machine: 'pc' | 'none' = 'pc'): DevicePlan =>
  planDevices(parseCommandLine(line.split(' ')).devices, machine);
const drives = (line: string, machine: 'pc' | 'none' = 'pc'): PlannedDrive[] =>
  planDrives(parseCommandLine(line.split(' ')).drives, machine);

describe('devices', () => {
  it('have one clear warning each where the guest sees another one', () => {
    const plan = devices(
      '-device rtl8139,id=e0,netdev=n,mac=52:54:00:00:00:01 -device usb-tablet -device virtio-blk-pci,drive=d -device ne2k_pci,netdev=m',
    );
    assert.deepEqual(plan.warnings, [
      '-device rtl8139: the v86 engine has no rtl8139, the guest sees an ne2k_pci instead',
      '-device usb-tablet: the v86 engine has no usb-tablet, the guest runs without it',
      '-device virtio-blk-pci: the v86 engine has no virtio-blk-pci, the guest sees an IDE disk instead',
    ]);
    assert.deepEqual(
      plan.nics.map(({ id, model, netdev }) => [id, model, netdev]),
      [
        ['e0', 'ne2k', 'n'],
        ['nic1', 'ne2k', 'm'],
      ],
    );
    assert.deepEqual(plan.nics[0]?.mac, Uint8Array.from([0x52, 0x54, 0, 0, 0, 1]));
    assert.deepEqual(
      plan.disks.map(({ drive }) => drive),
      ['d'],
    );
  });

  const refused: [string, string][] = [
    ['-device nosuch', "-device nosuch: 'nosuch' is not a valid device model name"],
    ['-device rtl8139', "-device rtl8139: Parameter 'netdev' is missing"],
    ['-device rtl8139,netdev=n,foo=1', "-device rtl8139,netdev=n,foo=1: Property 'rtl8139.foo' not found"],
    ['-device ide-hd', '-device ide-hd: drive property not set'],
    ['-device ide-hd,drive=d,foo=1', "-device ide-hd,drive=d,foo=1: Property 'ide-hd.foo' not found"],
    [
      '-device e1000,netdev=n,mac=zz',
      "-device e1000,netdev=n,mac=zz: Parameter 'mac' expects a MAC address, not 'zz'",
    ],
  ];
  for (const [line, message] of refused) it(line, () => assert.throws(() => devices(line), { message }));

  it('find no bus without a machine', () => {
    assert.throws(() => devices('-device ide-hd,drive=d', 'none'), {
      message: "-device ide-hd,drive=d: No 'IDE' bus found for device 'ide-hd'",
    });
    assert.throws(() => devices('-device usb-tablet', 'none'), { message: /No 'PCI' bus found/ });
    assert.throws(() => devices('-device nosuch', 'none'), { message: /not a valid device model name/ });
  });
});

describe('drives', () => {
  it('get their places from index, bus and unit, or the first free one', () => {
    const places = (line: string): unknown[] => drives(line).map(({ id, position }) => [id, position]);
    assert.deepEqual(places('-hdb a -drive file=b -drive file=c,if=none'), [
      ['ide0-hd1', 1],
      ['ide0-hd0', 0],
      ['none0', null],
    ]);
    assert.deepEqual(places('-drive file=a,bus=0,unit=1,id=x'), [['x', 1]]);
    assert.deepEqual(places('-drive file=a,if=scsi,bus=1,unit=2,id=x'), [['x', 9]]);
  });

  it('warn where the guest sees another disk', () => {
    assert.deepEqual(
      drives('-drive file=a,if=virtio,serial=s').flatMap(({ warnings }) => warnings),
      [
        '-drive if=virtio: the v86 engine has no virtio disks, the guest sees an IDE disk instead',
        "-drive serial=s: the v86 engine's disks have a serial number of their own",
      ],
    );
  });

  const refused: [string, string][] = [
    ['-drive file=a,if=zig', "-drive file=a,if=zig: unsupported bus type 'zig'"],
    ['-drive file=a,if=floppy', '-drive file=a,if=floppy: the v86 engine has IDE disks only'],
    ['-drive file=a,media=cdrom', '-drive file=a,media=cdrom: the v86 engine has no CD-ROM'],
    ['-drive file=a,media=zig', "-drive file=a,media=zig: 'zig' invalid media"],
    ['-drive file=a,index=2', '-drive file=a,index=2: index=2: the v86 engine has 2 IDE disks, 0 and 1'],
    ['-drive file=a,index=x', "-drive file=a,index=x: Parameter 'index' expects a number"],
    ['-drive file=a,index=0,unit=1', '-drive file=a,index=0,unit=1: index cannot be used with bus and unit'],
    ['-hda a -hda b', '-hda b: drive with bus=ide, index=0 exists'],
    ['-drive file=a,aio=zig', '-drive file=a,aio=zig: invalid aio option'],
    [
      '-drive file=a,werror=stop',
      '-drive file=a,werror=stop: werror=stop is not supported: errors go to the guest; use werror=report',
    ],
    [
      '-drive file=a,rerror=ignore',
      '-drive file=a,rerror=ignore: rerror=ignore is not supported: errors go to the guest; use rerror=report',
    ],
    ['-drive file=a,werror=zig', "-drive file=a,werror=zig: 'zig' invalid write error action"],
    [
      '-drive file=a,rerror=stop',
      '-drive file=a,rerror=stop: rerror=stop is not supported: errors go to the guest; use rerror=report',
    ],
  ];
  for (const [line, message] of refused) it(line, () => assert.throws(() => drives(line), { message }));

  it('are on no bus without a machine', () => {
    assert.equal(drives('-drive file=a,id=d', 'none')[0]?.position, null);
    assert.throws(() => drives('-hda a', 'none'), {
      message: '-hda a: machine type does not support if=ide',
    });
  });
});
