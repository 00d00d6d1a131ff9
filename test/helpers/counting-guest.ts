/**
 * A guest of one boot sector for a machine with an IDE disk and a serial port, in 16 bit real mode, at 0x7c00: it counts
 * from 1 and for each number writes a sector, flushes the disk, and only then says the number on ttyS0. So whoever has
 * heard a number may rely on its sector. It talks to the IDE ports itself and waits by polling: the write, the flush and
 * the bytes on the line may each be interrupted between any two of its instructions.
 *
 * Number n fills sector 64 + n mod 64 with 128 copies of itself (u32, little-endian) and is said as eight hexadecimal
 * digits and a line feed. What fails is said as `E`, the error register plus 0x40 as a character, and a line feed.
 */

const CODE = [
  'fa fc 31c0 8ed0 bc007c 8ed8 8ec0', // cli; cld; ss = ds = es = 0; sp = 7c00
  'baf603 b002 ee', // out 3f6, 2: no interrupts from the disk
  '6631db', // ebx = 0
  // next (16):
  '6643 bf0080 6689d8 b98000 66f3ab', // inc ebx; the 128 dwords at 8000 = ebx
  'e87700', // call idle
  'baf201 b001 ee', // 1f2: one sector
  '42 88d8 243f 0c40 ee', // 1f3: 40 + (bl & 3f)
  '42 30c0 ee 42 ee', // 1f4, 1f5: 0
  '42 b0e0 ee 42 b030 ee', // 1f6: the master, LBA; 1f7: WRITE SECTORS
  'e85800 a821 755d', // call idle; an error: failed
  'baf001 be0080 b90001 f36f', // the 256 words to 1f0
  'e84600 a821 754b', // call idle; an error: failed
  'baf701 b0e7 ee', // 1f7: FLUSH CACHE
  'e83900 a821 753e', // call idle; an error: failed
  '6689d8 b90800', // eax = ebx; cx = 8
  // digit:
  '66c1c004 6650 240f 0430 3c3a 7202 0427', // rol eax, 4; push eax; al = the digit of al & f
  'e80b00 6658 e2e9', // call put; pop eax; loop digit
  'b00a e80200 eb89', // line feed; jmp next
  // put: al to the line
  '88c4 bafd03', // ah = al
  'ec a820 74fb', // until in 3fd says that it takes a byte
  '88e0 baf803 ee c3', // out 3f8, ah; ret
  // idle: al = the status once it is not busy
  'baf701 ec a880 75fb c3',
  // failed:
  'b045 e8e1ff', // E
  'baf101 ec 0440 e8d8ff', // in 1f1, + 40
  'b00a e8d3ff e959ff', // line feed; jmp next
].join('');

export const RING_AT = 64;
export const RING_SECTORS = 64;

export function countingSector(): Uint8Array {
  const sector = new Uint8Array(512);
  sector.set(Buffer.from(CODE.replaceAll(' ', ''), 'hex'));
  sector.set([0x55, 0xaa], 510);
  return sector;
}

/** Where number n is written. */
export function offsetOf(n: number): number {
  return (RING_AT + (n % RING_SECTORS)) * 512;
}

/** What number n says. */
export function lineOf(n: number): string {
  return `${n.toString(16).padStart(8, '0')}\n`;
}
