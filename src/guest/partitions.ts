/**
 * Makes the two file systems of the disk as files of their own: a FAT one that syslinux boots, and an ext4 one for
 * data. Neither needs root or a loop device, and neither depends on the day or the host's defaults.
 */
import { truncate, writeFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DATA_LABEL } from './guest-scripts.ts';
import { ensureTool, type HostToolOptions } from './host-tools.ts';
import { MIB, SECTOR, type Partition } from './mbr.ts';
import { run } from './run.ts';

/** All times in the image: 2023-06-10, the day Debian 12 was released. */
export const IMAGE_TIME = 1686355200;
/** Any fixed values will do; they only have to be the same in every build. */
const FAT_SERIAL = '0c010f7e';
const DATA_UUID = '0c010f7e-0000-4000-8000-00000000da7a';
const DATA_HASH_SEED = '0c010f7e-0000-4000-8000-0000000005ed';
/** Spelt out, since mke2fs's defaults change between releases. No checksums: they only cost the emulated CPU. */
const EXT4_FEATURES =
  'none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,extra_isize';

const FIXED_ENV: Readonly<Record<string, string>> = {
  SOURCE_DATE_EPOCH: String(IMAGE_TIME),
  E2FSPROGS_FAKE_TIME: String(IMAGE_TIME),
  TZ: 'UTC',
  MTOOLS_SKIP_CHECK: '1',
};

export interface BootFiles {
  readonly kernel: string;
  readonly initramfs: string;
  readonly config: string;
}

/** How large the boot partition must be for `fileBytes` of files: FAT's tables, clusters' tails and syslinux itself. */
export function bootPartitionSize(fileBytes: number): number {
  return Math.max(16 * MIB, Math.ceil((fileBytes * 1.02 + MIB) / MIB) * MIB);
}

/** Writes the boot file system to `image`. */
export async function makeBootPartition(
  image: string,
  partition: Partition,
  files: BootFiles,
  options: HostToolOptions,
): Promise<void> {
  const [mformat, mcopy, syslinux] = await Promise.all([
    ensureTool('mformat', options),
    ensureTool('mcopy', options),
    ensureTool('syslinux', options),
  ]);
  await writeFile(image, '');
  await truncate(image, partition.size);
  // 2 KiB clusters: syslinux and the kernel must agree with mformat that this is FAT16, whose least is 4085 of them.
  // The start of the partition on the disk goes into the boot sector (-H): syslinux adds it to what it reads.
  const geometry = ['-T', String(partition.size / SECTOR), '-h', '64', '-s', '32'];
  const place = ['-H', String(partition.offset / SECTOR), '-N', FAT_SERIAL, '-v', 'COLO-BOOT', '-c', '4'];
  await run(mformat.path, ['-i', image, ...geometry, ...place, '::'], {
    env: { ...mformat.env, ...FIXED_ENV },
  });
  // syslinux first: its loader then lies at the same place whatever else the partition holds.
  const tools = { ...mcopy.env, ...syslinux.env, ...FIXED_ENV };
  if (mcopy.env['PATH'] !== undefined) tools['PATH'] = mcopy.env['PATH'];
  await run(syslinux.path, ['--install', image], { env: tools });
  const copies: readonly (readonly [string, string])[] = [
    [files.config, '::/syslinux.cfg'],
    [files.kernel, '::/vmlinuz'],
    [files.initramfs, '::/initrd'],
  ];
  for (const [from, to] of copies) {
    await run(mcopy.path, ['-i', image, from, to], { env: { ...mcopy.env, ...FIXED_ENV } });
  }
}

/** Writes an empty ext4 file system to `image`; `scratch` is a directory to work in. */
export async function makeDataPartition(
  image: string,
  partition: Partition,
  scratch: string,
  options: HostToolOptions,
): Promise<void> {
  const mke2fs = await ensureTool('mke2fs', options);
  const config = join(scratch, 'mke2fs.conf');
  await writeFile(config, '[defaults]\n\tblocksize = 4096\n\tinode_size = 256\n\tinode_ratio = 16384\n');
  await mkdir(join(scratch, 'data'), { recursive: true });
  await writeFile(image, '');
  await truncate(image, partition.size);
  // Nothing is left for the kernel to initialise in the background: the two copies of a guest would do it at
  // different times, and a fresh guest would write to its disk for minutes.
  const extended = `hash_seed=${DATA_HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0`;
  const args = ['-q', '-F', '-t', 'ext4', '-O', EXT4_FEATURES, '-b', '4096', '-I', '256', '-m', '0'];
  const journal = Math.min(8, Math.max(4, Math.floor(partition.size / MIB / 16)));
  await run(
    mke2fs.path,
    [...args, '-J', `size=${journal}`, '-U', DATA_UUID, '-L', DATA_LABEL, '-E', extended, image],
    { env: { ...mke2fs.env, ...FIXED_ENV, MKE2FS_CONFIG: config } },
  );
}
