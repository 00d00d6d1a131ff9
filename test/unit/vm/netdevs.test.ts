// -netdev: which types there are, and who may sit on one.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bareVm } from '../../helpers/bare-vm.ts';
import { planDevices } from '../../../src/vm/devices.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { planQemu } from '../../../src/vm/qemu-plan.ts';
import { openNetdevs } from '../../../src/vm/netdevs.ts';
import type { OpenNetdevs } from '../../../src/vm/netdevs.ts';

function open(line: string): Promise<OpenNetdevs> {
  const { netdevs, devices } = parseCommandLine(line.split(' '));
  return openNetdevs(netdevs, planDevices(devices).nics, () => undefined);
}

const HUB = '-netdev hubport,id=h,hubid=0';
const refused: [string, string][] = [
  ['-netdev zig,id=a', "-netdev zig,id=a: Parameter 'type' does not accept value 'zig'"],
  ['-netdev __proto__,id=a', "-netdev __proto__,id=a: Parameter 'type' does not accept value '__proto__'"],
  [
    '-netdev user,id=a',
    "-netdev user,id=a: type 'user' is not supported: use 'colo switch --nat' and -netdev stream; the NAT must outlive the VM",
  ],
  ['-netdev hubport,id=a', "-netdev hubport,id=a: Parameter 'hubid' is missing"],
  [
    `${HUB} -netdev hubport,id=a,hubid=1,netdev=zz`,
    "-netdev hubport,id=a,hubid=1,netdev=zz: netdev 'zz' not found",
  ],
  ['-device ne2k_pci,netdev=zz', "-device ne2k_pci,netdev=zz: Property 'netdev' can't find value 'zz'"],
  [
    `${HUB} -device ne2k_pci,netdev=h -device ne2k_pci,netdev=h,id=b`,
    "-device ne2k_pci,netdev=h,id=b: netdev 'h' is already in use by another device",
  ],
  [
    `${HUB} -netdev hubport,id=cable,hubid=1,netdev=h -device ne2k_pci,netdev=h`,
    "-device ne2k_pci,netdev=h: netdev 'h' is already in use by another device",
  ],
  [
    `${HUB} -netdev hubport,id=cable,hubid=1,netdev=h -device ne2k_pci,netdev=cable`,
    "-device ne2k_pci,netdev=cable: netdev 'cable' is already in use by another device",
  ],
];
for (const [line, message] of refused) {
  test(line, async () => {
    await assert.rejects(open(line), { name: 'ParameterError', message });
  });
}

test('ports of one hub hear each other, and not those of another', async (t) => {
  const { vm } = await bareVm(
    t,
    '-netdev hubport,id=a,hubid=0 -netdev hubport,id=b,hubid=0 -netdev hubport,id=c,hubid=1 ' +
      '-netdev hubport,id=d,hubid=1,netdev=b',
  );
  const heard: string[] = [];
  for (const id of ['a', 'c']) vm.netdevs.get(id)!.guest = (frame) => heard.push(`${id}:${frame.length}`);
  vm.netdevs.get('a')!.sendFromGuest(new Uint8Array(60));
  assert.deepEqual(heard, ['c:60'], 'through b, the cable d and hub 1');
  vm.netdevs.get('c')!.sendFromGuest(new Uint8Array(61));
  assert.deepEqual(heard, ['c:60', 'a:61']);
});

test('vnet_hdr=on: packets of a virtio NIC of a QEMU have headers, and nobody else’s', async () => {
  const headerBytes = async (netdev: string, device: string, accel = 'tcg'): Promise<number> => {
    const config = parseCommandLine(['-accel', accel, '-netdev', netdev, '-device', device]);
    const { nics } = accel === 'tcg' ? planQemu(config) : planDevices(config.devices);
    const networks = await openNetdevs(config.netdevs, nics, () => undefined);
    await networks.close();
    return networks.netdevs.get('n')!.vnetHeaderBytes;
  };
  const stream = 'stream,id=n,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=0';
  const socket = 'socket,id=n,listen=127.0.0.1:0';
  for (const netdev of [stream, socket]) {
    assert.equal(await headerBytes(`${netdev},vnet_hdr=on`, 'virtio-net-pci,netdev=n'), 12);
    assert.equal(await headerBytes(`${netdev},vnet_hdr=off`, 'virtio-net-pci,netdev=n'), 0);
    assert.equal(await headerBytes(netdev, 'virtio-net-pci,netdev=n'), 0);
    assert.equal(await headerBytes(`${netdev},vnet_hdr=on`, 'e1000,netdev=n'), 0);
    assert.equal(await headerBytes(`${netdev},vnet_hdr=on`, 'virtio-net-pci,netdev=n', 'v86'), 0);
  }
  await assert.rejects(headerBytes(`${stream},vnet_hdr=maybe`, 'virtio-net-pci,netdev=n'), /vnet_hdr/);
});
