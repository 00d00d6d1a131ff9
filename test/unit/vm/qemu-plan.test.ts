// What devices become when a QEMU executes the guest: its devices as asked for, its NICs on netdevs of ours.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { planQemu } from '../../../src/vm/qemu-plan.ts';
import type { QemuPlan } from '../../../src/vm/qemu-plan.ts';

const plan = (...args: string[]): QemuPlan => planQemu(parseCommandLine(['-accel', 'tcg', ...args]));
const devices = (...args: string[]): string[] =>
  plan(...args.flatMap((text) => ['-device', text])).args.filter((text) => text !== '-device');

describe('devices', () => {
  it('go on as they are, commas and all', () => {
    assert.deepEqual(devices('usb-tablet,id=t', 'virtio-rng-pci,bootindex=3', 'x,y=a,,b'), [
      'usb-tablet,id=t',
      'virtio-rng-pci,bootindex=3',
      'x,y=a,,b',
    ]);
    assert.deepEqual(devices('{"driver":"virtio-net-pci","id":"n","host_mtu":1400,"x":[1]}'), [
      '{"driver":"virtio-net-pci","id":"n","host_mtu":1400,"x":[1]}',
    ]);
  });

  it('NICs get the addresses that QEMU would give them, in their order', () => {
    const all = ['e1000,netdev=a', 'rtl8139,netdev=b,mac=52:54:00:AA:00:01,bootindex=1'];
    const json = '{"driver":"virtio-net-pci","netdev":"c","id":"n2"}';
    const { nics, args, identity } = plan(...[...all, json].flatMap((text) => ['-device', text]));
    assert.deepEqual(
      nics.map(({ id, netdev, mac }) => [id, netdev, Buffer.from(mac).toString('hex')]),
      [
        ['nic0', 'a', '525400123456'],
        ['nic1', 'b', '525400aa0001'],
        ['n2', 'c', '525400123458'],
      ],
    );
    const texts = [
      'e1000,netdev=a,mac=52:54:00:12:34:56',
      'rtl8139,netdev=b,mac=52:54:00:aa:00:01,bootindex=1',
      '{"driver":"virtio-net-pci","netdev":"c","id":"n2","mac":"52:54:00:12:34:58"}',
    ];
    assert.deepEqual(
      args,
      texts.flatMap((text) => ['-device', text]),
    );
    assert.deepEqual(
      identity,
      texts.map((text) => `-device ${text}`),
    );
  });

  it('virtio NICs are served here, but for those that want what that does not go with', () => {
    const served = (device: string): boolean | undefined => plan('-device', device).nics[0]?.isVirtio;
    for (const driver of ['virtio-net', 'virtio-net-pci', 'virtio-net-pci-transitional']) {
      assert.equal(served(`${driver},netdev=a`), true, driver);
    }
    assert.equal(served('virtio-net-pci,netdev=a,csum=off,vectors=0,iommu_platform=off'), true);
    assert.equal(served('{"driver":"virtio-net-pci","netdev":"a"}'), true);
    for (const device of [
      'e1000,netdev=a',
      'virtio-net-device,netdev=a',
      'virtio-net-pci,netdev=a,vectors=4',
      '{"driver":"virtio-net-pci","netdev":"a","vectors":4}',
      '{"driver":"virtio-net-pci","netdev":"a","iommu_platform":true}',
      'virtio-net-pci,netdev=a,iommu_platform=on',
    ]) {
      assert.equal(served(device), false, device);
    }
  });

  it('-nic without a model is the card that the machine has', () => {
    assert.match(plan('-nic', 'tap').args[1] ?? '', /^e1000,/);
    assert.match(plan('-nic', 'tap', '-machine', 'pc-q35-7.2').args[1] ?? '', /^e1000e,/);
  });

  it('chardevs that devices and objects name are told apart from those that only we use', () => {
    const { chardevs } = plan(
      ...['-chardev', 'null,id=qga0', '-chardev', 'null,id=mirror0', '-chardev', 'null,id=egd0'],
      ...['-device', 'virtio-serial', '-device', 'virtserialport,chardev=qga0,name=org.qemu.guest_agent.0'],
      ...['-object', 'rng-egd,id=r,chardev=egd0', '-object', 'filter-mirror,id=m,outdev=mirror0,netdev=n'],
    );
    assert.deepEqual(chardevs, ['qga0', 'egd0']);
  });

  const refused = [
    'vfio-pci,host=0:1',
    'vhost-vsock-pci,guest-cid=3',
    'ivshmem-plain,memdev=m',
    'virtio-9p-pci',
  ].concat([
    'vhost-user-fs-pci',
    'pc-dimm,memdev=m',
    'nvdimm,memdev=m',
    'usb-host,hostbus=1',
    'tpm-tis,tpmdev=t',
    'scsi-block',
  ]);
  for (const text of refused) {
    it(`${text}: refused, with the reason`, () => {
      const driver = text.split(',', 1)[0]!;
      assert.throws(() => devices(text), {
        name: 'ParameterError',
        message: new RegExp(`^-device ${text}: a ${driver} cannot be protected: .{9}`),
      });
    });
  }
  it('a wrong address is told', () => {
    assert.throws(() => devices('e1000,netdev=a,mac=zz'), {
      message: "-device e1000,netdev=a,mac=zz: Parameter 'mac' expects a MAC address, not 'zz'",
    });
  });
});
