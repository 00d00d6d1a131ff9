/**
 * The amd64 guest boots on stock QEMU with each kind of disk and NIC that QEMU's users have, and its services answer.
 * What it asks its kernel for by number (syscalls, the power button's events) is of its own kind too.
 */
import { after, before, describe, it } from 'node:test';
import { checkServices } from './guest-clients.ts';
import { GuestLab } from './guest-machine.ts';

const ARCH = 'amd64';

describe('the amd64 guest on QEMU', { skip: await GuestLab.whyNot(ARCH) }, () => {
  let lab: GuestLab;
  before(async () => {
    lab = await GuestLab.open(ARCH);
  });
  after(async () => {
    await lab.close();
  });

  it('answers through e1000 with an IDE disk, in little memory', async () => {
    await lab.withGuest({ nic: 'e1000', memoryMiB: 96 }, checkServices);
  });

  it('answers through virtio-net with a virtio disk, sees two CPUs, and heeds the power button', async () => {
    const options = { nic: 'virtio-net-pci', diskInterface: 'virtio', args: ['-smp', '2'] };
    await lab.withGuest(options, async (machine) => {
      await checkServices(machine);
      machine.type('echo cpus $(grep -c ^processor /proc/cpuinfo)\n');
      await machine.waitFor('cpus 2');
      machine.pressPowerButton();
      await machine.poweredOff();
    });
  });

  it('answers through rtl8139 with a disk on virtio-scsi', async () => {
    const args = [
      '-device',
      'virtio-scsi-pci',
      '-device',
      'scsi-hd,drive=disk0',
      '-device',
      'virtio-rng-pci',
    ];
    await lab.withGuest({ nic: 'rtl8139', diskInterface: 'none', args }, checkServices);
  });
});
