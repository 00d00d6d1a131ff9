/** The real guest (docs: `colo guest build`) in a V86Engine, its disk in memory. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { EngineDisk } from '../../../src/engine/engine.ts';
import { V86Engine } from '../../../src/engine/v86/index.ts';
import { Console } from '../../unit/engine/mini-machine.ts';

const IMAGE = process.env['COLO_GUEST_IMAGE'] ?? '';
const BIOS = '/usr/share/seabios/bios.bin';
const VGA_BIOS = '/usr/share/seabios/vgabios-stdvga.bin';

export const skipReason = !IMAGE
  ? 'COLO_GUEST_IMAGE does not name a guest image'
  : existsSync(IMAGE) && existsSync(BIOS)
    ? false
    : `${IMAGE} or SeaBIOS is not there`;

/** The image's contents, whatever its format. */
export function guestImage(): Uint8Array {
  if (IMAGE.endsWith('.raw')) return readFileSync(IMAGE);
  const dir = mkdtempSync(join(tmpdir(), 'colo-guest-'));
  try {
    const raw = join(dir, 'guest.raw');
    execFileSync('qemu-img', ['convert', '-O', 'raw', IMAGE, raw]);
    return readFileSync(raw);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

export interface GuestMachine extends AsyncDisposable {
  readonly engine: V86Engine;
  readonly console: Console;
  readonly disk: EngineDisk & { readonly bytes: Uint8Array; flushes: number };
}

/** Started, standing still. */
export async function guestMachine(image: Uint8Array, mac: Uint8Array): Promise<GuestMachine> {
  const bytes = Uint8Array.from(image);
  const disk = {
    id: 'disk0',
    lengthBytes: bytes.length,
    readOnly: false,
    bytes,
    flushes: 0,
    read: (offset: number, target: Uint8Array): Promise<void> => {
      target.set(bytes.subarray(offset, offset + target.length));
      return Promise.resolve();
    },
    write: (offset: number, source: Uint8Array): Promise<void> => {
      bytes.set(source, offset);
      return Promise.resolve();
    },
    flush(): Promise<void> {
      this.flushes++;
      return Promise.resolve();
    },
  };
  const engine = new V86Engine({
    name: 'guest',
    ramBytes: 128 * 1024 * 1024,
    bios: readFileSync(BIOS),
    vgaBios: readFileSync(VGA_BIOS),
    disks: [disk],
    nics: [{ id: 'nic0', model: 'ne2k', mac }],
  });
  await engine.start();
  return { engine, console: new Console(engine), disk, [Symbol.asyncDispose]: () => engine.stop() };
}

/** One checkpoint from `from` to `to`, disk included; both run afterwards. */
export async function checkpoint(from: GuestMachine, to: GuestMachine, full: boolean): Promise<void> {
  await Promise.all([from.engine.pause(), to.engine.pause()]);
  const snapshot = await from.engine.capture({ full });
  to.disk.bytes.set(from.disk.bytes);
  await to.engine.load([snapshot]);
  await Promise.all([from.engine.resume(), to.engine.resume()]);
}
