/**
 * A guest of one boot sector for a machine with a serial port and disks, the first an IDE disk, the others on any bus that
 * the BIOS knows; in 16 bit real mode, at 0x7c00. It reads sectors one by one, tries nothing twice, and says on ttyS0 what
 * it got. So a disk may fail reads that nobody but this guest asks for: sector 0 is wanted by the BIOS too, and by each
 * QEMU, one that only waits for a state included (for the disk's geometry).
 *
 * The others are read through the BIOS (INT 13h, 42h). The IDE disk is not: for a moment before QEMU stops because of an
 * error it is neither busy nor has it data or an error, which the BIOS takes for a failure; this waits for one of these.
 *
 * In round n = 1, 2, … sector 64 + n mod 64 of each disk is read, in the BIOS's order, into a buffer full of ones. A read
 * is said as the first four bytes there (u32, little-endian, eight hexadecimal digits) and a line feed; with `!` before
 * them if the rest of the sector is not alike; one that fails as `E`, the IDE disk's error register or the BIOS's status in
 * as many digits, and a line feed.
 */
const CODE = [
  '31c0 8ed0 bc007c 8ed8 8ec0 fc', // ss = ds = es = 0; sp = 7c00; cld
  '6631db', // ebx = 0
  // next (0f):
  '6643 c606007d80', // inc ebx; [7d00] = 80: the first disk
  // drive (16):
  'bf0080 6683c8ff b98000 66f3ab', // the 128 dwords at 8000 = ffffffff
  '88d8 83e03f 83c040 a3187d', // the sector: 40 + (bl & 3f)
  '8a16007d 80fa80 753b', // not the first: bios
  'baf201 b001 ee 42 a0187d ee', // 1f2: one; 1f3: which
  '42 30c0 ee 42 ee 42 b0e0 ee 42 b020 ee', // 1f4, 1f5: 0; 1f6: the master, LBA; 1f7: READ SECTORS
  'ec a880 75fb a809 74f7', // until it is not busy, and has data or an error
  'a801 750d baf001 bf0080 b90001 f36d eb1b', // no error: the 256 words from 1f0; got
  'baf101 ec 88c4 eb41', // ah = the error register; failed
  // bios (72):
  'c706127d0100', // one sector: the BIOS says there how many it has read
  'be107d b442 6653 cd13 665b 722e', // INT 13h, 42h with the packet at 7d10; an error: failed
  // got (85):
  'bf0080 668b05 b98000 66f3af 7409', // eax = [8000]; all of the 128 dwords are that: say
  '6650 b021 e84300 6658', // !
  // say (9c):
  'e82200', // call word
  'fe06007d a0007d 2c80 3a067504 0f8266ff e95cff', // the next disk, if the BIOS has so many (475): drive; else next
  // failed (b3):
  '660fb6ec b045 e82100 6689e8 ebdb', // E; ah; say
  // word (c1): eax and a line feed to the line
  'b90800',
  '66c1c004 6650 240f 0430 3c3a 7202 0427', // rol eax, 4; push eax; al = the digit of al & f
  'e80600 6658 e2e9 b00a', // call put; pop eax; loop; line feed
  // put (dd): al to the line
  '88c4 bafd03 ec a820 74fb', // until in 3fd says that it takes a byte
  '88e0 baf803 ee c3', // out 3f8, al; ret
].join('');

/** One sector to 0000:8000; the guest fills in which. */
const PACKET = '10 00 0100 0080 0000 0000000000000000';
const PACKET_AT = 0x110;
const SECTOR_BYTES = 512;

/** Where round n reads. */
export function readAt(round: number): number {
  return (64 + (round % 64)) * SECTOR_BYTES;
}

/** What a read of round n says that gets what is there. */
export function readLine(disk: number, round: number): string {
  return wordOf((disk << 8) | (round % 64));
}

/** Of a word that the guest says. */
export function wordOf(value: number): string {
  return `${value.toString(16).padStart(8, '0')}\n`;
}

/** What is on a disk of this guest, which may boot from each. `disk`: a number that its sectors are marked with. */
export function readingDisk(disk: number): Uint8Array {
  const content = new Uint8Array(128 * SECTOR_BYTES);
  content.set(bytesOf(CODE));
  content.set(bytesOf(PACKET), PACKET_AT);
  content.set([0x55, 0xaa], SECTOR_BYTES - 2);
  for (let round = 0; round < 64; round++) {
    new Uint32Array(content.buffer, readAt(round), SECTOR_BYTES / 4).fill((disk << 8) | round);
  }
  return content;
}

function bytesOf(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(' ', ''), 'hex');
}
