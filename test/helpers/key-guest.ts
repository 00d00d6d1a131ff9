/**
 * A guest of one boot sector that does what a key, or a byte of its serial port, asks for, and says each there: `w` watchdog (ib700),
 * `p` panic (pvpanic), `s` ACPI S3, `o` power-off, `r` reset, `d` a write of the disk's second sector (then `k` or `E`).
 * It says `>` when it is ready. Its machine is `pc` with SeaBIOS; ports and values are those of QEMU's devices.
 */
import { writeFile } from 'node:fs/promises';

export const KEY_GUEST_BYTES = 1024 * 1024;

/** Key → what is written to which port. */
const OUT: readonly (readonly [key: string, port: number, value: number, bits: 8 | 16])[] = [
  ['w', 0x443, 0x0f, 8],
  ['p', 0x505, 0x01, 8],
  ['s', 0x604, 0x2400, 16],
  ['o', 0x604, 0x2000, 16],
  ['r', 0x64, 0xfe, 8],
];

function word(value: number): [number, number] {
  return [value & 0xff, value >> 8];
}

/** To the serial port what is in AL. */
const SAY = [0xba, ...word(0x3f8), 0xee];

export function keyGuestSector(): Uint8Array {
  // Segments 0, a stack below, interrupts on, `>`.
  const code = [
    0x31,
    0xc0,
    0x8e,
    0xd8,
    0x8e,
    0xc0,
    0x8e,
    0xd0,
    0xbc,
    ...word(0x7c00),
    0xfb,
    0xb0,
    0x3e,
    ...SAY,
  ];
  const loop = code.length;
  const back = (): void => void code.push(0xe9, ...word((loop - (code.length + 3)) & 0xffff));
  // hlt; a key (int 16h)? else a byte of the serial port? else again. Say it.
  const line = [0xba, ...word(0x3fd), 0xec, 0xa8, 0x01, 0x74, 0xf1, 0xba, ...word(0x3f8), 0xec, 0xeb, 0x04];
  code.push(0xf4, 0xb4, 0x01, 0xcd, 0x16, 0x75, line.length, ...line, 0xb4, 0x00, 0xcd, 0x16, ...SAY);
  for (const [key, port, value, bits] of OUT) {
    const load = bits === 8 ? [0xb0, value] : [0xb8, ...word(value)];
    const act = [0xba, ...word(port), ...load, bits === 8 ? 0xee : 0xef];
    code.push(0x3c, key.charCodeAt(0), 0x75, act.length + 3, ...act);
    back();
  }
  // int 13h: write one sector, cylinder 0, head 0, sector 2.
  code.push(0x3c, 0x64, 0x74, 0x03);
  back();
  code.push(0xb8, ...word(0x0301), 0xb9, ...word(2), 0xba, ...word(0x80), 0xbb, ...word(0x7c00), 0xcd, 0x13);
  code.push(0xb0, 0x6b, 0x73, 0x02, 0xb0, 0x45, ...SAY);
  back();
  const sector = new Uint8Array(512);
  sector.set(code);
  sector.set([0x55, 0xaa], 510);
  return sector;
}

export async function writeKeyGuest(file: string): Promise<void> {
  const image = new Uint8Array(KEY_GUEST_BYTES);
  image.set(keyGuestSector());
  await writeFile(file, image);
}
