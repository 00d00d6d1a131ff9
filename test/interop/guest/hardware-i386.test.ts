/** The i386 guest boots on stock QEMU with each NIC and disk that matters, and its services answer. */
import { after, before, describe, it } from 'node:test';
import { checkServices } from './guest-clients.ts';
import { GuestLab, type MachineOptions } from './guest-machine.ts';

const ARCH = 'i386';

const HARDWARE: readonly Omit<MachineOptions, 'arch' | 'image'>[] = [
  { nic: 'rtl8139', memoryMiB: 64 },
  { nic: 'e1000' },
  { nic: 'ne2k_pci' },
  { nic: 'virtio-net-pci', diskInterface: 'virtio' },
  { nic: 'e1000e', args: ['-machine', 'q35'] },
];

describe('the i386 guest on QEMU', { skip: await GuestLab.whyNot(ARCH) }, () => {
  let lab: GuestLab;
  before(async () => {
    lab = await GuestLab.open(ARCH);
  });
  after(async () => {
    await lab.close();
  });

  for (const options of HARDWARE) {
    it(`answers through ${options.nic} with a ${options.diskInterface ?? 'SATA/IDE'} disk`, async () => {
      await lab.withGuest(options, checkServices);
    });
  }
});
