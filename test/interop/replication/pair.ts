/**
 * A replicated disk between two programs without a guest, either of which may be ours or QEMU: primary.raw on one side,
 * secondary.raw with an active and a hidden disk on the other, NBD over a unix socket between them. The lines are those
 * of QEMU's COLO-FT document; a blkdebug node stands in front of each image of ours, with no rule.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { tool } from '../qcow2/helpers.ts';
import { Program } from './program.ts';
import type { Whose } from './program.ts';

export const SIZE = 4 * 2 ** 20;
const QUORUM = '-drive if=none,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1';

/** An image file as the node `name`, with a blkdebug node where one may stand. */
function image(at: string, name: string, file: string, whose: Whose): string {
  if (whose === 'qemu') return `${at}.driver=file,${at}.filename=${file}`;
  return `${at}.driver=blkdebug,${at}.node-name=${name},${at}.image.driver=file,${at}.image.filename=${file}`;
}

export interface Images {
  readonly primary: string;
  readonly secondary: string;
  readonly active: string;
  readonly hidden: string;
}

export class ReplicatedPair {
  readonly folder: string;
  readonly images: Images;
  readonly primary: Program;
  readonly secondary: Program;

  private constructor(folder: string, images: Images, primary: Program, secondary: Program) {
    this.folder = folder;
    this.images = images;
    this.primary = primary;
    this.secondary = secondary;
  }

  /** Two programs with their disks; nothing is exported or replicated yet. */
  static async start(
    t: Pick<TestContext, 'after'>,
    folder: string,
    whose: { readonly primary: Whose; readonly secondary: Whose },
  ): Promise<ReplicatedPair> {
    await mkdir(folder, { recursive: true });
    const file = (name: string): string => path.join(folder, name);
    const images = {
      primary: file('primary.raw'),
      secondary: file('secondary.raw'),
      active: file('active.qcow2'),
      hidden: file('hidden.qcow2'),
    };
    for (const name of Object.values(images)) {
      await tool(
        'qemu-img',
        'create',
        '-q',
        '-f',
        name.endsWith('raw') ? 'raw' : 'qcow2',
        name,
        String(SIZE),
      );
    }
    const p = whose.primary;
    const s = whose.secondary;
    const primary = await Program.start(
      t,
      p,
      folder,
      `${QUORUM},children.0.driver=raw,children.0.node-name=disk0,${image('children.0.file', 'pri', images.primary, p)}`,
    );
    const secondary = await Program.start(
      t,
      s,
      folder,
      `-drive if=none,id=parent0,driver=raw,${image('file', 'sec', images.secondary, s)} ` +
        '-drive if=none,id=childs0,driver=replication,mode=secondary,top-id=colo-disk0,file.driver=qcow2,' +
        `${image('file.file', 'act', images.active, s)},file.backing.driver=qcow2,` +
        `${image('file.backing.file', 'hid', images.hidden, s)},file.backing.backing=parent0 ` +
        `${QUORUM},children.0=childs0`,
    );
    return new ReplicatedPair(folder, images, primary, secondary);
  }

  get socket(): string {
    return path.join(this.folder, 'nbd.sock');
  }

  /** The secondary's disk for everybody who knows the socket. */
  async exportDisk(): Promise<void> {
    await this.secondary.execute('nbd-server-start', { addr: { type: 'unix', data: { path: this.socket } } });
    await this.secondary.execute('nbd-server-add', { device: 'parent0', writable: true });
  }

  /** Both sides replicate. `wire` puts a blkdebug node of this name in front of the NBD client (ours alone). */
  async replicate(wire?: string): Promise<void> {
    await this.secondary.execute('xen-set-replication', { enable: true, primary: false });
    const at = wire === undefined ? 'file' : 'file.image';
    const debug = wire === undefined ? '' : `file.driver=blkdebug,file.node-name=${wire},`;
    const answer = await this.primary.hmp(
      `drive_add -n buddy driver=replication,mode=primary,node-name=replication0,${debug}${at}.driver=nbd,` +
        `${at}.server.type=unix,${at}.server.path=${this.socket},${at}.export=parent0`,
    );
    if (answer !== '') throw new Error(answer);
    await this.primary.execute('x-blockdev-change', { parent: 'colo-disk0', node: 'replication0' });
    await this.primary.execute('xen-set-replication', { enable: true, primary: true });
  }

  checkpoint(): Promise<unknown> {
    return this.secondary.execute('xen-colo-do-checkpoint');
  }

  failover(): Promise<unknown> {
    return this.secondary.execute('xen-set-replication', { enable: false, primary: false, failover: true });
  }
}
