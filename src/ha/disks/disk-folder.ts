/**
 * The disks of one VM on one host: `<stateFolder>/vms/NAME/` with `disk0.qcow2`, for a secondary `disk0.active.qcow2` and
 * `disk0.hidden.qcow2` above it, and the record of what they are (record.ts). Every method leaves the record true at any
 * moment in which the host may lose power.
 *
 * Assumes that no `colo vm` has the images open while they are made, merged or removed (their locks refuse it), and one
 * daemon a host. Who may start from them is the arbiter's to say; this says whether they can be started from.
 */
import { mkdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { Mutex } from '../../base/async.ts';
import { fileErrorMessage } from '../../base/file-errors.ts';
import type { RecordId } from '../arbiter/arbiter.ts';
import type { VmDisk } from '../room.ts';
import type { VmSpec } from '../spec/vm-spec.ts';
import {
  DisksError,
  changeDisks,
  isBitmapEnough,
  isUsable,
  type DisksEvent,
  type DisksRecord,
} from './record.ts';
import { DISKS_FILE, readDisks, syncPath, writeDisks } from './record-file.ts';
import { doDiskWork } from './work.ts';
import { runDiskWork, type WorkOptions } from './worker.ts';

export interface DiskProgress {
  readonly disk: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface DiskOptions {
  readonly onProgress?: (progress: DiskProgress) => void;
  readonly signal?: AbortSignal;
  /** What fills and merges images; default: a process of its own. */
  readonly run?: typeof runDiskWork;
}

type Sizes = DisksRecord['sizes'];

export class DiskFolder {
  readonly folder: string;
  readonly vm: string;
  #record: DisksRecord;
  readonly #turn = new Mutex();

  private constructor(folder: string, vm: string, record: DisksRecord) {
    this.folder = folder;
    this.vm = vm;
    this.#record = record;
  }

  /** Makes nothing. Throws DisksError for a record that cannot be read. */
  static async open(folder: string, vm: string): Promise<DiskFolder> {
    return new DiskFolder(folder, vm, await readDisks(folder, vm));
  }

  get record(): DisksRecord {
    return this.#record;
  }

  disks(): readonly VmDisk[] {
    return this.#record.sizes.map(({ id, sizeBytes }) => ({
      id,
      sizeBytes,
      image: this.#file(`${id}.qcow2`),
      active: this.#file(`${id}.active.qcow2`),
      hidden: this.#file(`${id}.hidden.qcow2`),
    }));
  }

  /**
   * The very first start: fills every disk from its image, or makes it empty. `of`: the record by which this host may.
   * Broken off, it begins anew. Throws DisksError, ClosedError.
   */
  async makeFirst(spec: VmSpec, of: RecordId, options: DiskOptions = {}): Promise<readonly VmDisk[]> {
    return this.#turn.run(async () => {
      this.#require('made', { type: 'made', of, sizes: [] });
      await this.#makeFolder();
      await this.#beginMaking(spec.disks.map(({ id }) => this.#file(`${id}.qcow2`)));
      const sizes: { id: string; sizeBytes: number }[] = [];
      for (const { id, image, sizeBytes } of spec.disks) {
        const file = this.#file(`${id}.qcow2`);
        const done = await (options.run ?? runDiskWork)(
          { kind: 'fill', id, image: file, from: image ?? null, sizeBytes: sizeBytes ?? null },
          workOptions(id, options),
        );
        sizes.push({ id, sizeBytes: done.sizeBytes });
      }
      await this.#write({ type: 'made', of, sizes });
      return this.disks();
    });
  }

  /**
   * To become a secondary: empty overlays, and empty images unless `keepsImages` (the survivor's bitmap is enough: ask
   * `isBitmapEnough` first). Throws DisksError when the disks here are somebody's who may still need them.
   */
  async makeTarget(sizes: Sizes, keepsImages: boolean): Promise<readonly VmDisk[]> {
    return this.#turn.run(async () => {
      await this.#makeFolder();
      const before = this.#files();
      await this.#write({ type: 'invited', sizes });
      const kept = new Set(this.#files());
      for (const file of before) if (!kept.has(file)) await rm(file, { force: true });
      for (const { id, sizeBytes, image, active, hidden } of this.disks()) {
        for (const file of keepsImages ? [hidden, active] : [image, hidden, active]) {
          await doDiskWork({ kind: 'make', id, image: file, sizeBytes });
        }
      }
      return this.disks();
    });
  }

  /**
   * Before the guest is started from here, when the arbiter has said that it may (`of`): merges what a takeover has left,
   * throws other overlays away. Can be broken off and called again. Throws DisksError for disks that are of no use.
   */
  async start(of: RecordId, options: DiskOptions = {}): Promise<readonly VmDisk[]> {
    return this.#turn.run(async () => {
      if (!isUsable(this.#record)) throw new DisksError(`${this.folder}: ${UNUSABLE[this.#record.kind]}`);
      await this.#checkFiles();
      if (this.#record.kind === 'merging') await this.#merge(options);
      await this.#write({ type: this.#record.kind === 'replica' ? 'starts' : 'holds', of });
      await this.#removeOverlays();
      return this.disks();
    });
  }

  /**
   * Notes what has happened to them; what the record then says of the images is made true first. Throws DisksError for
   * what must not happen.
   */
  async note(event: Exclude<DisksEvent, { type: 'made' | 'invited' | 'starts' | 'removed' }>): Promise<void> {
    await this.#turn.run(async () => {
      this.#require(event.type, event);
      if (event.type === 'loaded' || event.type === 'gave-way') await this.#sync(['image']);
      if (event.type === 'takes-over') await this.#sync(['image', 'hidden', 'active']);
      if (event.type === 'merged') await this.#requireEmptyOverlays();
      await this.#write(event);
    });
  }

  /**
   * Puts images and overlays on stable storage, so that `takes-over` finds little to do: to be called when the peer is lost
   * and the export is cut, while the arbiter is being asked.
   */
  async settle(): Promise<void> {
    await this.#sync(['image', 'hidden', 'active']);
  }

  /** The old images here need no more than what the survivor's bitmap holds (record.ts), and open without repair. */
  async isBitmapEnough(pairing: RecordId | null, sizes: Sizes): Promise<boolean> {
    if (!isBitmapEnough(this.#record, pairing)) return false;
    const disks = this.disks();
    if (disks.length !== sizes.length) return false;
    for (const { id, image, sizeBytes } of disks) {
      if (sizes.find((size) => size.id === id)?.sizeBytes !== sizeBytes) return false;
      const found = await doDiskWork({ kind: 'inspect', id, image }).catch(() => null);
      if (!found?.isSound || found.sizeBytes !== sizeBytes) return false;
    }
    return true;
  }

  /** Disks and record are gone for good. */
  async remove(): Promise<void> {
    await this.#turn.run(async () => {
      const files = this.#files();
      if (this.#record.kind !== 'none') await this.#write({ type: 'removed' });
      for (const file of [...files, this.#file(DISKS_FILE)]) await rm(file, { force: true });
    });
  }

  async #merge(options: DiskOptions): Promise<void> {
    for (const { id, image, active, hidden } of this.disks()) {
      await (options.run ?? runDiskWork)(
        { kind: 'merge', id, image, active, hidden },
        workOptions(id, options),
      );
    }
    // From here on the overlays are of no use, and must not be merged again: they are removed after this.
    await this.#write({ type: 'merged' });
  }

  async #removeOverlays(): Promise<void> {
    for (const { active, hidden } of this.disks()) {
      await rm(active, { force: true });
      await rm(hidden, { force: true });
    }
  }

  async #sync(files: readonly ('image' | 'hidden' | 'active')[]): Promise<void> {
    const names = this.disks().flatMap((disk) => files.map((which) => disk[which]));
    await Promise.all(
      names.map((name) =>
        syncPath(name).catch((error: unknown) => {
          throw new DisksError(`${name} cannot be put on stable storage: ${fileErrorMessage(error)}`, {
            cause: error,
          });
        }),
      ),
    );
  }

  /** Images without a record may be anybody's; with one that says `none` they are what was broken off. */
  async #beginMaking(images: readonly string[]): Promise<void> {
    const isThere = async (file: string): Promise<boolean> =>
      stat(file).then(
        () => true,
        () => false,
      );
    if (!(await isThere(this.#file(DISKS_FILE)))) {
      for (const image of images) {
        if (!(await isThere(image))) continue;
        throw new DisksError(
          `${image} is there, and no ${DISKS_FILE} that says what it is; move it away, or name it as the VM's image`,
        );
      }
      await writeDisks(this.folder, this.vm, this.#record);
    }
  }

  async #requireEmptyOverlays(): Promise<void> {
    for (const { id, active, hidden } of this.disks()) {
      for (const image of [active, hidden]) {
        if ((await doDiskWork({ kind: 'look-empty', id, image })).isSound) continue;
        throw new DisksError(`${image} still holds what is not in ${id}: it has not been merged`);
      }
    }
  }

  #files(): string[] {
    return this.disks().flatMap(({ image, active, hidden }) => [image, active, hidden]);
  }

  /** A record without its images is a mistake of somebody's, and no new disk. */
  async #checkFiles(): Promise<void> {
    const needed =
      this.#record.kind === 'merging' ? (['image', 'hidden', 'active'] as const) : (['image'] as const);
    for (const disk of this.disks()) {
      for (const which of needed) {
        await stat(disk[which]).catch((error: unknown) => {
          throw new DisksError(
            `${disk[which]}: ${fileErrorMessage(error)}, and the record says that it is there`,
            {
              cause: error,
            },
          );
        });
      }
    }
  }

  #require(what: string, event: DisksEvent): void {
    try {
      changeDisks(this.#record, event);
    } catch (error) {
      throw new DisksError(`${this.folder}: disks that are '${this.#record.kind}' cannot be '${what}'`, {
        cause: error,
      });
    }
  }

  async #write(event: DisksEvent): Promise<void> {
    this.#require(event.type, event);
    const next = changeDisks(this.#record, event);
    await writeDisks(this.folder, this.vm, next);
    this.#record = next;
  }

  async #makeFolder(): Promise<void> {
    try {
      await mkdir(this.folder, { recursive: true, mode: 0o700 });
      await syncPath(path.dirname(this.folder));
    } catch (error) {
      throw new DisksError(`${this.folder} cannot be made: ${fileErrorMessage(error)}`, { cause: error });
    }
  }

  #file(name: string): string {
    return path.join(this.folder, name);
  }
}

const UNUSABLE: Readonly<Record<DisksRecord['kind'], string>> = {
  none: 'there are no disks',
  syncing: 'a resync of these disks has not ended; they are half of one state and half of another',
  stale: 'these disks left a pair that went on without them; they can be the target of a resync only',
  whole: '',
  replica: '',
  merging: '',
};

function workOptions(disk: string, { onProgress, signal }: DiskOptions): WorkOptions {
  return {
    ...(signal && { signal }),
    ...(onProgress && {
      onBytes: (doneBytes, totalBytes) => onProgress({ disk, doneBytes, totalBytes }),
    }),
  };
}
