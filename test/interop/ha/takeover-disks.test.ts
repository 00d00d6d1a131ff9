/**
 * The disk folder and the program that uses it: a secondary's chain as QEMU's document has it, without a guest, takes over
 * and is killed before or after its overlays are merged. qemu-img says what the disk holds when it has been started from.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { DiskFolder, settleBeforeTakeOver } from '../../../src/ha/disks/index.ts';
import { tool } from '../qcow2/helpers.ts';
import { Program, missingQemu } from '../replication/program.ts';

const MIB = 2 ** 20;
const BYTES = 64 * MIB;
const pair = { epoch: 2, nonce: 'b' };
const alone = { epoch: 3, nonce: 'c' };

describe('a secondary that takes over with the disks of its folder', { skip: missingQemu }, () => {
  for (const isMerged of [false, true]) {
    const when = isMerged ? 'after its overlays were merged' : 'while its overlays are merged';
    test(`and is killed ${when}`, async (t) => {
      const dir = await mkdtemp(path.join(tmpdir(), 'takeover-'));
      t.after(() => rm(dir, { recursive: true, force: true }));
      const folder = await DiskFolder.open(path.join(dir, 'vm'), 'vm');
      const [disk] = await folder.makeTarget([{ id: 'disk0', sizeBytes: BYTES }], false);
      assert.ok(disk);
      const program = await Program.start(
        t,
        'colo',
        dir,
        `-drive if=none,id=parent0,driver=qcow2,file.filename=${disk.image} ` +
          '-drive if=none,id=childs0,driver=replication,mode=secondary,top-id=colo-disk0,file.driver=qcow2,' +
          `file.file.filename=${disk.active},file.backing.driver=qcow2,` +
          `file.backing.file.filename=${disk.hidden},file.backing.backing=parent0 ` +
          '-drive if=none,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0=childs0',
      );
      const expected = Buffer.alloc(BYTES);
      /** Pieces of 1 MiB; what the primary writes is seen only if it was there at the last checkpoint. */
      const write = async (device: string, at: number, value: number, isSeen: boolean): Promise<void> => {
        assert.match(await program.io(device, `write -P ${value} ${at}M 1M`), /wrote/);
        if (isSeen) expected.fill(value, at * MIB, (at + 1) * MIB);
      };
      for (let at = 0; at < 8; at++) await write('parent0', at, 1, true);
      await program.execute('xen-set-replication', { enable: true, primary: false });
      await folder.note({ type: 'loaded', of: pair });
      await write('colo-disk0', 20, 9, false);
      for (let at = 4; at < 12; at++) await write('parent0', at, 2, true);
      await program.execute('xen-colo-do-checkpoint');
      for (let at = 10; at < 30; at++) await write('parent0', at, 3, false);
      for (let at = 6; at < 40; at += 3) await write('colo-disk0', at, 4, true);

      const qmp = { execute: (command: string, args?: object) => program.execute(command, args) };
      await settleBeforeTakeOver(qmp, folder);
      await folder.note({ type: 'takes-over', of: alone });
      await program.execute('xen-set-replication', { enable: false, primary: false, failover: true });
      await write('colo-disk0', 50, 5, true);
      if (isMerged) {
        await program.qmp.event('BLOCK_JOB_COMPLETED', 0, 60_000);
        await write('colo-disk0', 6, 6, true);
        await folder.note({ type: 'merged' });
        assert.equal(folder.record.kind, 'whole');
      }
      const gone = once(program.child, 'exit');
      program.child.kill('SIGKILL');
      await gone;

      const again = await DiskFolder.open(folder.folder, 'vm');
      assert.equal(again.record.kind, isMerged ? 'whole' : 'merging');
      await again.start({ epoch: 4, nonce: 'd' });
      const raw = path.join(dir, 'expected.raw');
      await writeFile(raw, expected);
      await tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', disk.image, raw);
      await tool('qemu-img', 'check', '-f', 'qcow2', disk.image).catch((error: unknown) => {
        // 3: leaks, which a killed process may leave.
        assert.match(String(error), /code.*3|leaked/s);
      });
    });
  }
});
