/**
 * The disk of a side that died is brought up to date by what the survivor remembers: two processes without a guest, a
 * client that writes through the survivor's export without a pause, a SIGKILL, and qemu-img as the judge. Both ways:
 * the primary dies, and later, with the roles changed, the secondary.
 */
import assert from 'node:assert/strict';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { VmProcess } from '../../src/demo/vm-process.ts';
import { diskNames } from '../../src/ha/names.ts';
import { NbdClient } from '../../src/nbd/client.ts';
import { colo } from '../helpers/colo.ts';
import { missing, mustRun } from '../interop/nbd/peers.ts';

const DISK = diskNames(0).disk;
const STEP_MS = 60_000;
const MIB = 1 << 20;
const SIZE = 64 * MIB;
const CHUNK = 65_536;
const QUORUM = `if=none,id=${DISK},driver=quorum,read-pattern=fifo,vote-threshold=1`;
let folder: string;
const file = (name: string): string => path.join(folder, name);

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-bitmap-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** Writes here and there, always something new, until it is told to stop or its server dies. */
class Writer {
  readonly #client: NbdClient;
  readonly #done: Promise<void>;
  #goesOn = true;
  writes = 0;

  private constructor(client: NbdClient, firstChunk: number) {
    this.#client = client;
    this.#done = this.#write(firstChunk).catch(() => undefined);
  }

  /** Writes to the 32 chunks from `firstChunk` on. */
  static async start(vm: VmProcess, firstChunk: number): Promise<Writer> {
    const client = await NbdClient.connect({ path: file(`${vm.name}.nbd`) }, { exportName: DISK });
    return new Writer(client, firstChunk);
  }

  async stop(): Promise<void> {
    this.#goesOn = false;
    await this.#done;
    await this.#client.close();
  }

  async until(writes: number): Promise<void> {
    while (this.writes < writes) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async #write(firstChunk: number): Promise<void> {
    // Several at once, each in chunks of its own, so that some are on their way at every moment.
    const lane = async (at: number): Promise<void> => {
      for (let turn = 0; this.#goesOn; turn++) {
        const offset = (firstChunk + at + 4 * (turn % 8)) * CHUNK + (turn % 7) * 4096;
        await this.#client.write(offset, Buffer.alloc(3 * 4096, `${firstChunk} ${at} ${turn} `));
        if (turn % 5 === 4) await this.#client.flush();
        this.writes++;
      }
    };
    await Promise.all([0, 1, 2, 3].map(lane));
  }
}

interface BlockInfo {
  readonly device: string;
  readonly inserted?: {
    readonly 'dirty-bitmaps'?: readonly { readonly name: string; readonly count: number }[];
  };
}

async function partedBytes(vm: VmProcess): Promise<number> {
  const devices = (await vm.qmp.execute('query-block')) as BlockInfo[];
  const bitmaps = devices.find(({ device }) => device === DISK)?.inserted?.['dirty-bitmaps'] ?? [];
  const parted = bitmaps.find(({ name }) => name === 'parted');
  assert.ok(parted, 'there is no bitmap');
  return parted.count;
}

async function exported(vm: VmProcess, ...devices: string[]): Promise<void> {
  await vm.qmp.execute('nbd-server-start', {
    addr: { type: 'unix', data: { path: file(`${vm.name}.nbd`) } },
  });
  for (const device of devices) await vm.qmp.execute('nbd-server-add', { device, writable: true });
}

async function startVm(name: string, ...args: string[]): Promise<VmProcess> {
  return VmProcess.start(name, '127.0.0.1', folder, ['-machine', 'none', '-nodefaults', ...args]);
}

async function secondary(name: string, disk: string): Promise<VmProcess> {
  for (const overlay of ['active', 'hidden']) {
    await colo('img', 'create', '-q', '-f', 'qcow2', file(`${name}-${overlay}.qcow2`), String(SIZE));
  }
  const vm = await startVm(
    name,
    ...['-drive', `if=none,id=parent0,file.filename=${disk},driver=qcow2`],
    '-drive',
    `if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=${DISK},` +
      `file.file.filename=${file(`${name}-active.qcow2`)},file.backing.driver=qcow2,` +
      `file.backing.file.filename=${file(`${name}-hidden.qcow2`)},file.backing.backing=parent0`,
    ...['-drive', `${QUORUM},children.0=childs0`],
  );
  await exported(vm, 'parent0');
  return vm;
}

async function replicate(from: VmProcess, to: VmProcess): Promise<void> {
  const said = await from.qmp.execute('human-monitor-command', {
    'command-line':
      'drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.server.type=unix,' +
      `file.server.path=${file(`${to.name}.nbd`)},file.export=parent0,node-name=replication0`,
  });
  assert.equal(said, '');
  await from.qmp.execute('x-blockdev-change', { parent: DISK, node: 'replication0' });
  await to.qmp.execute('xen-set-replication', { enable: true, primary: false });
  await from.qmp.execute('xen-set-replication', { enable: true, primary: true });
}

/** Returns the job's length: what it had to copy. The guest (here: the writer) is stopped for the cut. */
async function resync(from: VmProcess, to: VmProcess, writer: Writer): Promise<number> {
  const ready = from.qmp.waitFor('BLOCK_JOB_READY', () => true, STEP_MS);
  const ended = from.qmp.waitFor('BLOCK_JOB_COMPLETED', () => true, STEP_MS);
  await from.qmp.execute('drive-mirror', {
    device: DISK,
    'job-id': 'resync',
    target: `nbd+unix:///parent0?socket=${file(`${to.name}.nbd`)}`,
    mode: 'existing',
    format: 'raw',
    sync: 'bitmap',
    bitmap: 'parted',
    'bitmap-mode': 'on-success',
  });
  const first = await Promise.race([ready, ended]);
  assert.equal(first.event, 'BLOCK_JOB_READY', JSON.stringify(first));
  await writer.stop();
  await from.qmp.execute('block-job-cancel', { device: 'resync' });
  const { data } = await ended;
  assert.equal(data['error'], undefined);
  assert.equal(await partedBytes(from), 0);
  return Number(data['len']);
}

async function same(one: string, other: string): Promise<void> {
  const said = await mustRun('qemu-img', 'compare', '-U', '-f', 'qcow2', '-F', 'qcow2', one, other);
  assert.match(said, /Images are identical/);
}

test('the disk of a dead side is made whole by what changed', { skip: missing('qemu-img') }, async (t) => {
  const [a, b] = [file('a.qcow2'), file('b.qcow2')];
  const vms: VmProcess[] = [];
  t.after(() => Promise.all(vms.map((vm) => vm.kill())));
  await colo('img', 'create', '-q', '-f', 'qcow2', a, String(SIZE));
  let primary = await startVm(
    'first',
    '-drive',
    `${QUORUM},children.0.file.filename=${a},children.0.driver=qcow2`,
  );
  vms.push(primary);
  await exported(primary, DISK);
  const content = await NbdClient.connect({ path: file('first.nbd') }, { exportName: DISK });
  for (let at = 0; at < SIZE / 2; at += MIB) await content.write(at, Buffer.alloc(MIB, `content ${at} `));
  await content.flush();
  await content.close();
  await copyFile(a, b);
  const survivor = await secondary('second', b);
  vms.push(survivor);
  await replicate(primary, survivor);

  await t.test('the primary dies', async () => {
    const old = await Writer.start(primary, 16);
    await old.until(50);
    await old.stop();
    // A checkpoint: nothing is being written.
    await survivor.qmp.execute('xen-colo-do-checkpoint');
    const last = await Writer.start(primary, 64);
    await last.until(50);
    await primary.kill();
    await last.stop();
    await survivor.qmp.execute('nbd-server-stop');
    const merged = survivor.qmp.waitFor('BLOCK_JOB_COMPLETED', () => true, STEP_MS);
    await survivor.qmp.execute('xen-set-replication', { enable: false, primary: false, failover: true });
    await exported(survivor, DISK);
    const writer = await Writer.start(survivor, 128);
    await merged;
    await writer.until(50);
    // At most the chunks of the two writers since the checkpoint, whole clusters.
    assert.ok((await partedBytes(survivor)) <= 64 * CHUNK);
    primary = await secondary('third', a);
    vms.push(primary);
    const copied = await resync(survivor, primary, writer);
    assert.ok(copied <= SIZE / 4, `${copied} bytes copied`);
    await same(a, b);
  });

  await t.test('the new secondary dies', async () => {
    await replicate(survivor, primary);
    const writer = await Writer.start(survivor, 256);
    await writer.until(50);
    await primary.kill();
    await survivor.qmp.execute('x-blockdev-change', { parent: DISK, child: 'children.1' });
    await survivor.qmp.execute('human-monitor-command', { 'command-line': 'drive_del replication0' });
    await writer.until(writer.writes + 50);
    const again = await secondary('fourth', a);
    vms.push(again);
    const copied = await resync(survivor, again, writer);
    assert.ok(copied <= SIZE / 4, `${copied} bytes copied`);
    await same(a, b);
    await again.qmp.execute('nbd-server-stop');
    await again.kill();
  });

  await t.test('a disk that is another one is refused', async () => {
    const other = file('other.qcow2');
    await colo('img', 'create', '-q', '-f', 'qcow2', other, String(SIZE));
    const wrong = await secondary('wrong', other);
    vms.push(wrong);
    const writer = await Writer.start(survivor, 300);
    await assert.rejects(resync(survivor, wrong, writer), /it is not the disk that the bitmap was kept for/);
    await writer.stop();
    assert.ok((await partedBytes(survivor)) > 0);
  });
});
