/**
 * A guest of one boot sector, assembled by hand, that boots in well under a second: it counts in RAM and takes commands
 * on ttyS0. 16 bit real mode, loaded by the BIOS at 0x7c00.
 *
 * Commands: `c` prints the counter (8 hex digits); `r` reads sector 1 by the BIOS and prints its first byte, or `E` on
 * an error; `w` writes sector 2 (512 bytes of 0x5a) and prints `W` or `E`; `f` sends ATA FLUSH CACHE and prints `F` or
 * `E`; `h` halts for good; `b` reboots through the keyboard controller; `t` prints the timer ticks since boot (BIOS
 * data area, low byte, two digits); `d` fills 64 KiB at 0x20000 with the next byte. At its start it prints `R`.
 */
import type { EngineDisk } from '../../../src/engine/engine.ts';
import { IoError } from '../../../src/base/errors.ts';

const COM1 = 0x3f8;

/** Emits bytes, resolves jumps: as much of an assembler as the guest needs. */
class Assembler {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #fixups: { at: number; label: string; size: 1 | 2 }[] = [];

  label(name: string): this {
    this.#labels.set(name, this.#bytes.length);
    return this;
  }

  db(...bytes: number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** `opcode` with a 16 bit displacement (0xe8 call, 0xe9 jmp). */
  near(opcode: number, label: string): this {
    this.#bytes.push(opcode);
    this.#fixups.push({ at: this.#bytes.length, label, size: 2 });
    return this.db(0, 0);
  }

  /** `opcode` with an 8 bit displacement (0x74 je, 0x75 jne, 0xeb jmp, 0x72 jc, 0xe2 loop). */
  short(opcode: number, label: string): this {
    this.#bytes.push(opcode);
    this.#fixups.push({ at: this.#bytes.length, label, size: 1 });
    return this.db(0);
  }

  sector(): Uint8Array {
    for (const { at, label, size } of this.#fixups) {
      const distance = this.#labels.get(label)! - (at + size);
      if (size === 1 && (distance < -128 || distance > 127)) throw new Error(`jump to ${label} is too far`);
      this.#bytes[at] = distance & 0xff;
      if (size === 2) this.#bytes[at + 1] = (distance >> 8) & 0xff;
    }
    if (this.#bytes.length > 510) throw new Error(`boot sector of ${this.#bytes.length} bytes`);
    const out = new Uint8Array(512);
    out.set(this.#bytes);
    out.set([0x55, 0xaa], 510);
    return out;
  }
}

/** Where the counter is, in guest RAM (u32, little-endian). */
export const COUNTER_ADDRESS = 0x9000;

export function bootSector(): Uint8Array {
  const a = new Assembler();
  a.db(0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb); // cli; ds = ss = 0; sp = 0x7c00; sti
  a.db(0xb0, 0x52).near(0xe8, 'put'); // 'R'
  a.label('main');
  a.db(0x66, 0xff, 0x06, 0x00, 0x90); // inc dword [0x9000]
  a.db(0xba, (COM1 + 5) & 0xff, COM1 >> 8, 0xec, 0xa8, 0x01).short(0x74, 'main'); // until a byte is there
  a.db(0xba, COM1 & 0xff, COM1 >> 8, 0xec); // al = the byte
  const command = (letter: string, label: string): void => {
    a.db(0x3c, letter.charCodeAt(0)).short(0x75, `not-${label}`).near(0xe8, label).short(0xeb, 'main');
    a.label(`not-${label}`);
  };
  command('c', 'counter');
  command('r', 'read');
  command('w', 'write');
  command('f', 'flush');
  command('t', 'ticks');
  command('d', 'dirty');
  a.db(0x3c, 'b'.charCodeAt(0)).short(0x75, 'no-boot').db(0xb0, 0xfe, 0xe6, 0x64); // out 0x64, 0xfe
  a.label('no-boot').db(0x3c, 'h'.charCodeAt(0)).short(0x75, 'main').db(0xfa, 0xf4); // cli; hlt
  a.near(0xe9, 'main');

  a.label('put').db(0x50, 0xba, (COM1 + 5) & 0xff, COM1 >> 8); // push ax
  a.label('put-wait').db(0xec, 0xa8, 0x20).short(0x74, 'put-wait');
  a.db(0x58, 0xba, COM1 & 0xff, COM1 >> 8, 0xee, 0xc3); // pop ax; out; ret

  a.label('hex').db(0xb9, 8, 0); // eax in eight digits: mov cx, 8
  a.label('hex-next').db(0x66, 0xc1, 0xc0, 0x04, 0x66, 0x50, 0x24, 0x0f, 0x3c, 0x0a); // rol eax, 4; push; and al, 15
  a.short(0x72, 'hex-digit').db(0x04, 0x27); // above 9: add al, 'a' - '0' - 10
  a.label('hex-digit').db(0x04, 0x30).near(0xe8, 'put').db(0x66, 0x58).short(0xe2, 'hex-next').db(0xc3);

  a.label('counter').db(0x66, 0xa1, 0x00, 0x90).near(0xe8, 'hex').db(0xc3);
  a.label('ticks').db(0x66, 0xa1, 0x6c, 0x04).near(0xe8, 'hex').db(0xc3);

  // int 13h at 0000:a000, sector given in cx (1 based), one sector, drive 0x80
  a.label('read').db(0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00).near(0xe8, 'int13').short(0x72, 'io-error');
  a.db(0xa0, 0x00, 0xa0).near(0xe8, 'put').db(0xc3);
  a.label('write').db(0xb8, 0x5a, 0x5a, 0x1e, 0x07, 0xbf, 0x00, 0xa0, 0xb9, 0x00, 0x01, 0xfc, 0xf3, 0xab); // rep stosw
  a.db(0xb8, 0x01, 0x03, 0xb9, 0x03, 0x00).near(0xe8, 'int13').short(0x72, 'io-error');
  a.db(0xb0, 0x57).near(0xe8, 'put').db(0xc3);
  a.label('io-error').db(0xb0, 0x45).near(0xe8, 'put').db(0xc3);
  a.label('int13').db(0x31, 0xdb, 0x8e, 0xc3, 0xbb, 0x00, 0xa0, 0xba, 0x80, 0x00, 0xcd, 0x13, 0xc3);

  // ATA: select the master, FLUSH CACHE, wait for BSY to end, look at ERR
  a.label('flush').db(0xba, 0xf6, 0x01, 0xb0, 0xe0, 0xee, 0xba, 0xf7, 0x01, 0xb0, 0xe7, 0xee);
  a.label('flush-wait').db(0xec, 0xa8, 0x80).short(0x75, 'flush-wait').db(0xa8, 0x01).short(0x75, 'io-error');
  a.db(0xb0, 0x46).near(0xe8, 'put').db(0xc3);

  // the next byte from the line fills 0x20000..0x2ffff
  a.label('dirty').db(0xba, (COM1 + 5) & 0xff, COM1 >> 8);
  a.label('dirty-wait')
    .db(0xec, 0xa8, 0x01)
    .short(0x74, 'dirty-wait')
    .db(0xba, COM1 & 0xff, COM1 >> 8, 0xec, 0x88, 0xc4);
  a.db(0xbb, 0x00, 0x20, 0x8e, 0xc3, 0x31, 0xff, 0xb9, 0x00, 0x80, 0xfc, 0xf3, 0xab); // es = 0x2000; cx = 32768 words
  a.db(0xb0, 0x44).near(0xe8, 'put').db(0xc3);
  return a.sector();
}

export interface MemoryDisk extends EngineDisk {
  readonly bytes: Uint8Array;
  flushes: number;
  /** Set to make requests fail or wait. */
  beforeRequest: ((op: 'read' | 'write' | 'flush', offset: number) => Promise<void> | void) | null;
}

/** A disk in memory that boots the mini guest; sector 1 starts with `@`. */
export function memoryDisk(lengthBytes = 1024 * 1024): MemoryDisk {
  const bytes = new Uint8Array(lengthBytes);
  bytes.set(bootSector());
  bytes[512] = 0x40;
  return {
    id: 'disk0',
    lengthBytes,
    readOnly: false,
    bytes,
    flushes: 0,
    beforeRequest: null,
    async read(offset, target) {
      await this.beforeRequest?.('read', offset);
      target.set(bytes.subarray(offset, offset + target.length));
    },
    async write(offset, source) {
      await this.beforeRequest?.('write', offset);
      bytes.set(source, offset);
    },
    async flush() {
      await this.beforeRequest?.('flush', 0);
      this.flushes++;
    },
  };
}

export function ioError(): IoError {
  return new IoError('EIO', 'made for a test');
}
