/**
 * `vm.yaml`: what a person writes about one VM, read into a VmSpec with every default filled in. docs/vm-file.md has the
 * keys. What is wrong is told with line, column and key, all of it at once. Whether a host can do it is check.ts's.
 */
import path from 'node:path';
import { contradictionsOf } from './rules.ts';
import { Problems, Section, textOf } from './section.ts';
import { SpecFileError } from './spec-error.ts';
import {
  DEFAULT_CHECKPOINT_DELAY_MS,
  DEFAULT_HEARTBEAT,
  DEFAULT_MEMORY_MIB,
  HOST_NAME,
  IFNAME,
  MAC,
  MAX_CPUS,
  MAX_DISKS,
  MAX_DISK_BYTES,
  MAX_DURATION_MS,
  MAX_HOSTS,
  MAX_INTERVAL_MS,
  MAX_MEMORY_MIB,
  MAX_NICS,
  MAX_OPTIONS,
  MAX_PATIENCE_MS,
  MAX_RATE,
  MIN_DISK_BYTES,
  MIN_HEARTBEAT_MS,
  NIC_MODEL,
  SECTOR_BYTES,
  SWITCH_ADDRESS,
  VM_NAME,
  defaultInterface,
  defaultMac,
  defaultModel,
} from './vm-limits.ts';
import { VM_DISPLAYS, VM_ENGINES, VM_SPEC_VERSION } from './vm-spec.ts';
import type { DiskSpec, NicEdge, NicSpec, VmEngine, VmSpec } from './vm-spec.ts';
import { parseYaml, readSpecFile } from './yaml-tree.ts';
import type { Place, Tree } from './yaml-tree.ts';

const MIB = 1024 * 1024;

/** Throws SpecFileError, also when the file cannot be read. */
export async function readVmFile(file: string): Promise<VmSpec> {
  return parseVmFile(await readSpecFile(file), { file, folder: path.dirname(path.resolve(file)) });
}

export interface VmFileOptions {
  /** For messages. */
  readonly file: string;
  /** What relative paths of images are relative to. */
  readonly folder: string;
}

/** Throws SpecFileError and nothing else, whatever the text is. */
export function parseVmFile(text: string, { file, folder }: VmFileOptions): VmSpec {
  const tree = parseYaml(file, text);
  const problems = new Problems();
  const spec = new VmReader(problems, folder).read(tree);
  if (spec && problems.list.length === 0) {
    for (const { path: where, message } of contradictionsOf(spec))
      problems.add(placeIn(tree, where), where, message);
  }
  if (!spec || problems.list.length > 0) throw new SpecFileError(file, problems.list);
  return spec;
}

class VmReader {
  readonly #problems: Problems;
  readonly #folder: string;

  constructor(problems: Problems, folder: string) {
    this.#problems = problems;
    this.#folder = folder;
  }

  /** Undefined only together with a note. */
  read(tree: Tree): VmSpec | undefined {
    const top = Section.of(tree, '', this.#problems);
    if (!top) return undefined;
    readVersion(top, VM_SPEC_VERSION);
    const name = top.text('name', VM_NAME);
    if (!top.has('name')) top.missing('name', 'give the VM a name, unique in the cluster');
    const engine = top.oneOf('engine', VM_ENGINES) ?? 'v86';
    const disks = this.#disks(top, engine);
    const memoryBytes = top.size('memory', {
      ...{ least: MIB, most: MAX_MEMORY_MIB * MIB, unit: MIB, example: '256M' },
    });
    if (memoryBytes !== undefined && memoryBytes % MIB !== 0) top.wrong('memory', 'whole MiB are due');
    const qemu = top.text('qemu');
    const display = top.oneOf('display', VM_DISPLAYS);
    const cpus = top.integer('cpus', 1, MAX_CPUS) ?? 1;
    const hosts = top.texts('hosts', MAX_HOSTS, HOST_NAME);
    const nics = this.#nics(top, name ?? '', engine);
    const checkpoint = this.#checkpoint(top);
    const heartbeat = this.#heartbeat(top);
    const resync = this.#resync(top);
    const options = top.texts('options', MAX_OPTIONS);
    top.end();
    if (name === undefined) return undefined;
    return {
      version: VM_SPEC_VERSION,
      ...{
        name,
        engine,
        ...(qemu === undefined ? {} : { qemu }),
        ...(display === undefined ? {} : { display }),
        cpus,
      },
      memoryMiB: memoryBytes === undefined ? DEFAULT_MEMORY_MIB : Math.floor(memoryBytes / MIB),
      ...{ disks, nics, hosts, checkpoint, heartbeat, resync, options },
    };
  }

  /** `image` and `size` at the top are the one disk of most VMs. */
  #disks(top: Section, engine: VmEngine): DiskSpec[] {
    const disks = top.list('disks', MAX_DISKS).map(({ tree, path: where }, at): DiskSpec => {
      const id = `disk${at}`;
      if (tree.kind === 'scalar') {
        const image = this.#image(textOf(tree, where, this.#problems));
        return { id, ...image, interface: defaultInterface(engine) };
      }
      const section = Section.of(tree, where, this.#problems, 'an image, or a map with image and size,');
      if (!section) return { id, interface: defaultInterface(engine) };
      const bus = section.oneOf('interface', ['ide', 'virtio', 'scsi']) ?? defaultInterface(engine);
      const disk = { id, ...this.#imageAndSize(section), interface: bus };
      section.end();
      return disk;
    });
    const isShort = top.has('image') || top.has('size');
    const short = this.#imageAndSize(top);
    if (!top.has('disks')) {
      if (!isShort) top.missing('image', 'name the image of the disk, or list several under disks');
      return [{ id: 'disk0', ...short, interface: defaultInterface(engine) }];
    }
    if (isShort) top.wrong(top.has('image') ? 'image' : 'size', 'is a part of disks here; move it there');
    if (disks.length === 0) top.wrong('disks', 'at least one disk is due');
    return disks;
  }

  #imageAndSize(section: Section): { image?: string; sizeBytes?: number } {
    const image = this.#image(section.text('image'));
    if (image.image === '') section.wrong('image', 'the path of an image is due');
    const sizeBytes = section.size('size', {
      ...{ least: MIN_DISK_BYTES, most: MAX_DISK_BYTES, unit: 0, example: '10G' },
    });
    if (sizeBytes === undefined) return image;
    if (sizeBytes % SECTOR_BYTES !== 0)
      section.wrong('size', `whole sectors of ${SECTOR_BYTES} bytes are due`);
    return { ...image, sizeBytes };
  }

  #image(image: string | undefined): { image?: string } {
    if (image === undefined || image === '') return image === undefined ? {} : { image };
    return { image: path.resolve(this.#folder, image) };
  }

  #nics(top: Section, vm: string, engine: VmEngine): NicSpec[] {
    const nics = top.list('network', MAX_NICS).flatMap(({ tree, path: where }, at): NicSpec[] => {
      const id = `nic${at}`;
      const mac = defaultMac(vm, at);
      const model = defaultModel(engine);
      if (tree.kind === 'scalar') {
        const bridge = textOf(tree, where, this.#problems, IFNAME);
        return bridge === undefined ? [] : [{ id, mac, model, edge: { kind: 'bridge', bridge } }];
      }
      const section = Section.of(
        tree,
        where,
        this.#problems,
        'a bridge, or a map with bridge, tap or switch,',
      );
      if (!section) return [];
      const edge = this.#edge(section, tree.at, where);
      const own = {
        mac: section.text('mac', MAC)?.toLowerCase() ?? mac,
        model: section.text('model', NIC_MODEL) ?? model,
      };
      section.end();
      return edge ? [{ id, ...own, edge }] : [];
    });
    const mac = top.text('mac', MAC)?.toLowerCase();
    if (mac === undefined) return nics;
    const [only, second] = nics;
    if (only && !second) return [{ ...only, mac }];
    top.wrong('mac', 'is for a VM with one NIC; give each its own under network');
    return nics;
  }

  #edge(section: Section, at: Place, where: string): NicEdge | null {
    const bridge = section.text('bridge', IFNAME);
    const ifname = section.text('tap', IFNAME);
    const address = section.text('switch', SWITCH_ADDRESS);
    const given = ['bridge', 'tap', 'switch'].filter((key) => section.has(key));
    if (given.length !== 1) {
      const said = given.length === 0 ? 'none' : given.join(' and ');
      this.#problems.add(at, where, `one of bridge, tap and switch is due, not ${said}`);
    }
    if (bridge !== undefined) return { kind: 'bridge', bridge };
    if (ifname !== undefined) return { kind: 'tap', ifname };
    return address === undefined ? null : { kind: 'switch', address };
  }

  #checkpoint(top: Section): VmSpec['checkpoint'] {
    const section = top.section('checkpoint');
    const maxDelayMs = section?.duration('max-delay', 1, MAX_DURATION_MS) ?? DEFAULT_CHECKPOINT_DELAY_MS;
    section?.end();
    return { maxDelayMs };
  }

  #heartbeat(top: Section): VmSpec['heartbeat'] {
    const section = top.section('heartbeat');
    const { intervalMs, patienceMs, linkPatienceMs } = DEFAULT_HEARTBEAT;
    const heartbeat = {
      intervalMs: section?.duration('interval', MIN_HEARTBEAT_MS, MAX_INTERVAL_MS) ?? intervalMs,
      patienceMs: section?.duration('patience', MIN_HEARTBEAT_MS, MAX_PATIENCE_MS) ?? patienceMs,
      linkPatienceMs: section?.duration('link-patience', 0, MAX_DURATION_MS) ?? linkPatienceMs,
    };
    section?.end();
    return heartbeat;
  }

  #resync(top: Section): VmSpec['resync'] {
    const section = top.section('resync');
    const bytesPerSecond = section?.size('rate', { least: 1024, most: MAX_RATE, unit: 0, example: '50M' });
    section?.end();
    return { bytesPerSecond: bytesPerSecond ?? 0 };
  }
}

/** A file of the version before is understood; one of a later version may say what would be missed. */
export function readVersion(top: Section, current: number): void {
  const version = top.integer('version', 0, 1_000_000);
  if (version !== undefined && version > current)
    top.wrong('version', `${version} is newer than this software, which knows ${current}; upgrade it`);
  if (version !== undefined && version < current - 1)
    top.wrong('version', `${version} is too old; this software knows ${current - 1} and ${current}`);
}

/** Where the value of `disks[0].image` is; of what is not written, what is nearest above it. */
function placeIn(tree: Tree, where: string): Place {
  let place = tree.at;
  let now: Tree | undefined = tree;
  for (const step of where.split(/[.[\]]+/).filter((word) => word !== '')) {
    // One value stands for a list of one.
    if (/^\d+$/.test(step) && now.kind !== 'list') continue;
    now =
      now.kind === 'map'
        ? now.entries.get(step)?.value
        : now.kind === 'list'
          ? now.items[Number(step)]
          : undefined;
    if (!now) break;
    place = now.at;
  }
  return place;
}
