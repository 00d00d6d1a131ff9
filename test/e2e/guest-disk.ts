/** What other people's programs say of a guest's disk. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Fails unless the two hold the same, bit for bit (qemu-img's judgement). */
export async function sameDisk(left: string, right: string): Promise<void> {
  const { stdout } = await run('qemu-img', ['compare', '-U', left, right]);
  assert.match(stdout, /Images are identical/);
}

/** The ledger in the image, after a replay of its journal as a boot would do, by e2fsprogs alone. Works in `folder`. */
export async function ledgerOnDisk(disk: string, folder: string): Promise<string[]> {
  const raw = path.join(folder, 'check.raw');
  await run('qemu-img', ['convert', '-U', '-O', 'raw', disk, raw]);
  const { stdout: table } = await run('sfdisk', ['-J', raw]);
  const parsed = JSON.parse(table) as { partitiontable: { partitions: { start: number; size: number }[] } };
  const data = parsed.partitiontable.partitions.at(-1)!;
  const part = path.join(folder, 'check.part');
  await run('dd', [`if=${raw}`, `of=${part}`, 'bs=512', `skip=${data.start}`, `count=${data.size}`]);
  await run('e2fsck', ['-fy', part]).catch((error: unknown) => {
    // 1: errors corrected (a journal to replay); more than that is damage.
    if ((error as { code?: number }).code !== 1) throw error;
  });
  const { stdout } = await run('debugfs', ['-R', 'cat /ledger', part], { maxBuffer: 1 << 26 });
  return stdout.split('\n').filter((line) => line !== '');
}
