/** QEMU's COLO-FT procedure on the embedded engine, three generations. Only -enable-kvm is `-accel v86` here. */
import { testProcedure } from './procedure-story.ts';

const image = process.env['COLO_GUEST_IMAGE'];

testProcedure({
  title: 'the COLO-FT procedure through three generations',
  image,
  skip: image === undefined ? 'set COLO_GUEST_IMAGE to a guest made by colo guest' : false,
  machine: '-accel v86 -cpu qemu64,+kvmclock -m 512 -smp 1 -vnc :0 -device piix3-usb-uhci -device usb-tablet',
  generations: 3,
  warning: /rtl8139.*ne2k_pci instead/,
});
