/**
 * A guest of one boot sector for a machine with an IDE disk and an ne2k_pci NIC, in 16 bit real mode, at 0x7c00: it
 * counts from 1, with each tick of the BIOS' clock (18.2 a second), and for each number writes its own 512 bytes with
 * the number in them to sector 8 of the disk and sends a frame with it. It hears nothing.
 *
 * A frame is a broadcast of EtherType 0x88b5 (IEEE 802.1: for experiments): the number (u32, little-endian), then SECRET.
 */
export const SECRET = "a guest's secret, in frames, RAM and disk";
/** Where the number stands in a frame, and in the sector. */
export const NUMBER_IN_FRAME = 14;
export const NUMBER_IN_SECTOR = 0xcd;
export const NUMBER_SECTOR = 8;
const FRAME_BYTES = 60;

const CODE = [
  'fa fc 31c0 8ed0 bc007c 8ed8 8ec0 fb', // cli; cld; ss = ds = es = 0; sp = 7c00; sti
  '66bb00000080', // ebx = the first address of PCI's
  // find (14):
  '6689d8 e85900', // eax = ebx; call pci
  '663dec102980 7409', // the NIC (10ec:8029)? found
  '81c30008 73ec', // the next device: find
  'f4 ebfd', // none: stop
  // found (2b):
  '6689d8 b010 e84000', // its first base address
  '24fc 89c5', // bp = the ports there
  'be8d7c e84000', // call regs with init
  // next (3d):
  'a16c04 f4 3b066c04 74f9', // until the clock ticks
  '66ff06cd7c', // the number in the frame
  'b80103 b90900 ba8000 bb007c cd13', // write one sector, the ninth, from 7c00
  'bea77c e81d00', // call regs with dma
  '8d5610 bebf7c b93c00 f36e', // the frame to the NIC's memory
  'beb37c e80c00 ebca', // call regs with send; jmp next
  // pci (73): eax = what is at eax
  'baf80c 66ef b2fc 66ed c3',
  // regs (7d): (register, value) to the NIC up to ff
  'ad 3cff 740a 0fb6d0 01ea 88e0 ee ebf1 c3',
  // init (8d): stop, bytes, no DMA, broadcasts, send as it is, ring, no interrupts, start
  '0021 0e48 0a00 0b00 0c04 0d00 0146 0280 0346 07ff 0f00 0022 ff00',
  // dma (a7): 60 bytes to 4000
  '0800 0940 0a3c 0b00 0012 ff00',
  // send (b3): 60 bytes from 4000
  '0740 0440 053c 0600 0026 ff00',
  // frame (bf)
  'ffffffffffff 525400123456 88b5 00000000',
];

/** A disk of `bytes` that boots the guest. */
export function speakingGuestDisk(bytes: number): Buffer {
  const disk = Buffer.alloc(bytes);
  Buffer.from(CODE.join('').replaceAll(' ', ''), 'hex').copy(disk);
  disk.write(SECRET, NUMBER_IN_SECTOR + 4, 'latin1');
  disk.set([0x55, 0xaa], 510);
  return disk;
}

/** The number that a frame carries, or null: it is not of this guest. */
export function numberOf(frame: Uint8Array): number | null {
  const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength);
  if (bytes.byteLength < FRAME_BYTES || bytes.readUInt16BE(12) !== 0x88b5) return null;
  return bytes.readUInt32LE(NUMBER_IN_FRAME);
}
