/**
 * Picks the kernel modules the guest may need out of an unpacked kernel package, with everything they depend on, and
 * writes the two indexes modprobe reads.
 *
 * Debian makes those indexes with depmod when a kernel is installed; nothing is installed here, so what the modules
 * say about themselves (`.modinfo`) is read straight from the files. It decides nothing about load order.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { GuestBuildError } from './errors.ts';

/** Drivers for what QEMU and v86 emulate, and the data file system. */
export const EMULATED_MODULES: readonly string[] = [
  ...['ata_piix', 'ahci', 'sd_mod', 'virtio_pci', 'virtio_blk', 'virtio_scsi'],
  ...['virtio_net', 'ne2k-pci', '8139too', '8139cp', 'e1000', 'e1000e', 'pcnet32'],
  ...['ext4', 'crc32c_generic', 'button', 'evdev'],
];

/** The same for a machine that QEMU alone runs. */
export const MACHINE_MODULES: readonly string[] = [...EMULATED_MODULES, 'virtio_rng'];

const SIGNATURE_MAGIC = Buffer.from('~Module signature appended~\n', 'latin1');
/** sizeof(struct module_signature); its last field is the signature's length, big-endian. */
const SIGNATURE_INFO = 12;

/** Where the fields wanted here lie in an ELF header and in a section's, by the file's class (ELF specification). */
const ELF_LAYOUTS: readonly (ElfLayout | undefined)[] = [
  undefined,
  { wordBytes: 4, sectionsAt: 32, entrySize: 46, offset: 16 },
  { wordBytes: 8, sectionsAt: 40, entrySize: 58, offset: 24 },
];

interface ElfLayout {
  readonly wordBytes: 4 | 8;
  /** e_shoff and e_shentsize; e_shnum and e_shstrndx follow the latter. */
  readonly sectionsAt: number;
  readonly entrySize: number;
  /** sh_offset; sh_size follows it. */
  readonly offset: number;
}

export interface KernelModule {
  /** Path below the modules directory, e.g. `kernel/fs/ext4/ext4.ko`. */
  readonly path: string;
  readonly data: Uint8Array;
  readonly depends: readonly string[];
  readonly aliases: readonly string[];
}

/** The modules named in `wanted` and all they depend on, sorted by path. `directory` is `lib/modules/VERSION`. */
export async function selectModules(directory: string, wanted: readonly string[]): Promise<KernelModule[]> {
  const files = new Map<string, string>();
  for (const entry of await readdir(join(directory, 'kernel'), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith('.ko')) continue;
    files.set(moduleName(entry.name), join(entry.parentPath, entry.name));
  }
  const chosen = new Map<string, KernelModule>();
  const queue = wanted.map(moduleName);
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    if (chosen.has(name)) continue;
    const file = files.get(name);
    if (file === undefined) throw new GuestBuildError(`The kernel package has no module named ${name}.`);
    const data = await readFile(file);
    const info = readModinfo(data);
    const depends = info.filter(([key]) => key === 'depends').flatMap(([, value]) => value.split(','));
    const module: KernelModule = {
      path: relative(directory, file),
      data: withoutSignature(data),
      depends: depends.filter((word) => word !== '').map(moduleName),
      aliases: info.filter(([key]) => key === 'alias').map(([, value]) => value),
    };
    chosen.set(name, module);
    queue.push(...module.depends);
  }
  return [...chosen.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/**
 * The module without the signature appended to it (include/linux/module_signature.h). The guest enforces none, apt has
 * checked the package, and an RSA verification for each of two dozen modules is a good part of an emulated boot.
 */
export function withoutSignature(module: Buffer): Buffer {
  if (!module.subarray(-SIGNATURE_MAGIC.length).equals(SIGNATURE_MAGIC)) return module;
  const info = module.length - SIGNATURE_MAGIC.length - SIGNATURE_INFO;
  const signature = module.readUInt32BE(info + SIGNATURE_INFO - 4);
  return signature > info ? module : module.subarray(0, info - signature);
}

/** modules.dep: each module with all that must be loaded before it, nearest first, as depmod writes it. */
export function dependencyIndex(modules: readonly KernelModule[]): string {
  const byName = new Map(modules.map((module) => [moduleName(module.path), module]));
  const closure = (module: KernelModule, seen: Set<string>): string[] =>
    module.depends.flatMap((name) => {
      const next = byName.get(name);
      if (next === undefined || seen.has(name)) return [];
      seen.add(name);
      return [...closure(next, seen), next.path];
    });
  return modules
    .map(
      (module) =>
        `${module.path}:${closure(module, new Set())
          .reverse()
          .map((path) => ` ${path}`)
          .join('')}\n`,
    )
    .join('');
}

/** modules.alias: which module serves which device. */
export function aliasIndex(modules: readonly KernelModule[]): string {
  return modules
    .flatMap((module) => module.aliases.map((alias) => `alias ${alias} ${moduleName(module.path)}\n`))
    .join('');
}

/** `kernel/drivers/net/ne2k-pci.ko` is the module `ne2k_pci`. */
export function moduleName(path: string): string {
  return path.replace(/^.*\//, '').replace(/\.ko$/, '').replaceAll('-', '_');
}

/** The `key=value` strings of a little-endian ELF module's `.modinfo` section, of 32 or 64 bits. */
export function readModinfo(elf: Buffer): [string, string][] {
  const layout = elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46 ? undefined : ELF_LAYOUTS[elf[4]!];
  if (layout === undefined || elf[5] !== 1) {
    throw new GuestBuildError('A kernel module is not an ELF file; is the kernel package damaged?');
  }
  const word = (at: number): number =>
    layout.wordBytes === 4 ? elf.readUInt32LE(at) : Number(elf.readBigUInt64LE(at));
  const sectionsAt = word(layout.sectionsAt);
  const entrySize = elf.readUInt16LE(layout.entrySize);
  const count = elf.readUInt16LE(layout.entrySize + 2);
  const section = (index: number): { name: number; offset: number; size: number } => {
    const at = sectionsAt + index * entrySize;
    const { offset, wordBytes } = layout;
    return { name: elf.readUInt32LE(at), offset: word(at + offset), size: word(at + offset + wordBytes) };
  };
  const names = section(elf.readUInt16LE(layout.entrySize + 4));
  for (let index = 0; index < count; index += 1) {
    const { name, offset, size } = section(index);
    const nameAt = names.offset + name;
    if (elf.toString('latin1', nameAt, elf.indexOf(0, nameAt)) !== '.modinfo') continue;
    return elf
      .toString('latin1', offset, offset + size)
      .split('\0')
      .filter((text) => text.includes('='))
      .map((text) => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]);
  }
  return [];
}
