/**
 * Builds the small bootable guest: Debian 12's stock kernel for i386 or amd64, busybox and perl, our services, a data partition.
 *
 * This is the order of the steps and nothing else; each step lives in a file of its own. The result depends on the
 * packages of the mirrors and on the options alone.
 */
import { mkdir, mkdtemp, open, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { AptRoot, defaultCacheDir } from './apt-root.ts';
import { findArch, type Arch } from './arch.ts';
import { GuestBuildError } from './errors.ts';
import { bootConfig } from './guest-scripts.ts';
import { ensureDebianFile } from './host-tools.ts';
import { buildInitramfs } from './initramfs.ts';
import { MIB, planLayout, writeMbr } from './mbr.ts';
import { checkNetwork } from './network.ts';
import { bootPartitionSize, makeBootPartition, makeDataPartition } from './partitions.ts';
import { writeQcow2 } from './qcow2-writer.ts';
import { run } from './run.ts';

export interface GuestProgress {
  readonly step: string;
  /** From 0 to 1 over the whole build. */
  readonly fraction: number;
}

export interface BuildGuestOptions {
  /** `i386`, which is the default, or `amd64`. */
  readonly arch?: string | undefined;
  /** `.qcow2`, or `.raw`/`.img` for a plain image. */
  readonly output: string;
  readonly sizeBytes?: number | undefined;
  /** ADDRESS/LENGTH of the guest's first NIC. */
  readonly ip?: string | undefined;
  readonly gateway?: string | undefined;
  /** The same for IPv6, which is off without an address. */
  readonly ip6?: string | undefined;
  readonly gateway6?: string | undefined;
  readonly cacheDir?: string | undefined;
  /** A Debian mirror to use in place of the host's own. */
  readonly mirror?: string | undefined;
  readonly onProgress?: ((progress: GuestProgress) => void) | undefined;
}

export const DEFAULT_SIZE = 64 * MIB;
const RELEASE = 'bookworm';
const USERLAND = ['busybox-static', 'perl-base', 'libc6', 'libcrypt1'] as const;
const MBR_PATHS = ['/usr/lib/syslinux/mbr/mbr.bin', '/usr/lib/SYSLINUX/mbr.bin'];
const DISK_ID = 0x0c010f7e;

/** Builds the image at `options.output`, which appears only when it is complete. */
export async function buildGuest(options: BuildGuestOptions): Promise<void> {
  const output = resolve(options.output);
  const format = /\.(raw|img)$/i.test(output) ? 'raw' : 'qcow2';
  const arch = findArch(options.arch);
  checkNetwork(options);
  const size = options.sizeBytes ?? DEFAULT_SIZE;
  // Fails now, not after a download, if the disk cannot hold even the smallest boot partition.
  planLayout(size, bootPartitionSize(0));
  const cacheDir = resolve(options.cacheDir ?? defaultCacheDir());
  const report = (step: string, fraction: number): void => options.onProgress?.({ step, fraction });
  await mkdir(cacheDir, { recursive: true });
  const scratch = await mkdtemp(join(cacheDir, 'build-'));
  // Beside the output, so that the last step is a rename within one file system.
  const unfinished = join(dirname(output), `.${basename(output)}.${process.pid}`);
  try {
    const tree = join(scratch, 'tree');
    const packages = await fetchPackages(arch, cacheDir, tree, options.mirror, report);
    report('initramfs', 0.6);
    const initramfs = join(scratch, 'initrd');
    const root = await buildInitramfs({ arch, tree, ...packages });
    await writeFile(initramfs, arch.isRootPacked ? await packed(root) : root);
    const config = join(scratch, 'syslinux.cfg');
    await writeFile(config, bootConfig(options, arch.kernelOptions));
    const kernel = join(tree, 'boot', `vmlinuz-${packages.kernelVersion}`);
    const files = { kernel, initramfs, config };

    report('boot partition', 0.68);
    const fileBytes = (await stat(kernel)).size + (await stat(initramfs)).size;
    const layout = planLayout(size, bootPartitionSize(fileBytes));
    const boot = join(scratch, 'boot.img');
    await makeBootPartition(boot, layout.boot, files, { cacheDir });
    report('data partition', 0.76);
    const data = join(scratch, 'data.img');
    await makeDataPartition(data, layout.data, scratch, { cacheDir });

    report('disk', 0.84);
    const mbr = await ensureDebianFile('syslinux-common', MBR_PATHS, { cacheDir });
    const raw = format === 'raw' ? unfinished : join(scratch, 'disk.raw');
    await writeFile(raw, writeMbr(layout, await readFile(mbr.path), DISK_ID));
    await truncate(raw, layout.size);
    await copyInto(raw, boot, layout.boot.offset);
    await copyInto(raw, data, layout.data.offset);
    if (format === 'qcow2') await writeQcow2(raw, unfinished);
    await rename(unfinished, output);
    report('done', 1);
  } catch (cause) {
    if (cause instanceof GuestBuildError || !(cause instanceof Error)) throw cause;
    throw new GuestBuildError(`The guest image ${output} could not be built: ${cause.message}`, { cause });
  } finally {
    await rm(scratch, { recursive: true, force: true });
    await rm(unfinished, { force: true });
  }
}

const packed = promisify(gzip);

/** Downloads the kernel and the userland and unpacks what is needed of them into `tree`. */
async function fetchPackages(
  arch: Arch,
  cacheDir: string,
  tree: string,
  mirror: string | undefined,
  report: (step: string, fraction: number) => void,
): Promise<{ kernelVersion: string; manifest: string }> {
  report('package lists', 0.02);
  const apt = new AptRoot({ cacheDir, release: RELEASE, architecture: arch.name, mirror });
  await apt.update();
  const { fields } = await apt.show(arch.kernelMetapackage);
  const kernelVersion = new RegExp(`\\blinux-image-(\\d\\S*-${arch.kernelFlavour})\\b`).exec(
    fields['Depends'] ?? '',
  )?.[1];
  if (kernelVersion === undefined) {
    throw new GuestBuildError(
      `${arch.kernelMetapackage} names no kernel: "Depends: ${fields['Depends'] ?? ''}".`,
    );
  }
  const names = [`linux-image-${kernelVersion}`, ...USERLAND];
  const manifest: string[] = [];
  await mkdir(tree, { recursive: true });
  for (const [index, name] of names.entries()) {
    // The kernel is nine tenths of all bytes.
    const [from, span] =
      index === 0 ? [0.1, 0.35] : [0.45 + (0.15 * index) / names.length, 0.1 / names.length];
    report(name, from);
    const { version } = await apt.show(name);
    const file = await apt.download(name, (fraction) => report(name, from + span * fraction));
    await run('dpkg-deb', ['-x', file, tree]);
    manifest.push(`${name} ${version}\n`);
  }
  return { kernelVersion, manifest: manifest.join('') };
}

/** Copies a whole file to `offset` of another, leaving runs of zeros as holes. */
async function copyInto(target: string, source: string, offset: number): Promise<void> {
  const from = await open(source, 'r');
  const to = await open(target, 'r+');
  try {
    const block = Buffer.alloc(MIB / 4);
    const zeros = Buffer.alloc(block.length);
    for (let at = 0; ;) {
      const { bytesRead } = await from.read(block, 0, block.length, at);
      if (bytesRead === 0) break;
      const used = block.subarray(0, bytesRead);
      if (!used.equals(zeros.subarray(0, bytesRead))) await to.write(used, 0, bytesRead, offset + at);
      at += bytesRead;
    }
  } finally {
    await from.close();
    await to.close();
  }
}
