/** A real QEMU on memory of ours: it runs its firmware there, we see its writes, and it sees what we load. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { withDeadline } from '../../../src/base/async.ts';
import { RamFile, RamSnapshots, SoftDirtyTracker } from '../../../src/engine/ram/index.ts';
import { parseRamChanges } from '../../../src/engine/ram/ram-codec.ts';
import { whyNoBits } from '../../../src/engine/ram/soft-dirty.ts';
import { notOnThisMachine } from '../../helpers/not-here.ts';

const QEMU = 'qemu-system-x86_64';
const MIB = 1024 * 1024;
const RAM_BYTES = 64 * MIB;
/** What is not RAM in the first MiB (VGA memory, ROMs) is elsewhere. */
const LOW_BYTES = 640 * 1024;
const DEADLINE_MS = 30_000;

const missing = spawnSync(QEMU, ['--version']).status === 0 ? false : `${QEMU} is not installed`;

class Qemu {
  readonly #child;
  readonly #lines: AsyncIterator<string, undefined>;

  constructor(ram: RamFile) {
    const memory = `memory-backend-file,id=ram,share=on,size=${ram.byteLength},mem-path=/proc/self/fd/3`;
    const args = ['-S', '-nodefaults', '-display', 'none', '-accel', 'tcg', '-qmp', 'stdio'];
    this.#child = spawn(QEMU, [...args, '-object', memory, '-machine', 'pc,memory-backend=ram'], {
      stdio: ['pipe', 'pipe', 'inherit', ram.fd],
    });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async execute(command: string, args: object = {}): Promise<void> {
    this.#child.stdin!.write(JSON.stringify({ execute: command, arguments: args }) + '\n');
    await this.until((line) => line.includes('"return"'));
  }

  async until(isIt: (line: string) => boolean): Promise<void> {
    for (;;) {
      const next = await withDeadline(this.#lines.next(), DEADLINE_MS, 'QEMU');
      if (next.done === true) throw new Error('QEMU has ended');
      const { value } = next;
      if (value.includes('"error"')) throw new Error(value);
      if (isIt(value)) return;
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}

test('QEMU runs on memory of ours', { skip: missing }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'qemu-ram-'));
  const file = join(folder, 'low.bin');
  const ram = RamFile.create('qemu', RAM_BYTES);
  const snapshots = await RamSnapshots.open(ram, 2);
  const qemu = new Qemu(ram);
  const low = async (): Promise<Buffer> => {
    await qemu.execute('pmemsave', { val: 0, size: LOW_BYTES, filename: file });
    return readFileSync(file);
  };
  try {
    await qemu.execute('qmp_capabilities');
    const { ram: first } = await snapshots.capture({ full: true });
    await qemu.execute('cont');
    // The firmware's work area is written as soon as it runs.
    const giveUpAt = performance.now() + DEADLINE_MS;
    let pages = 0;
    while (pages === 0 && performance.now() < giveUpAt) {
      ({ pages } = await snapshots.capture({ full: false }));
    }
    assert.ok(pages > 0, 'the firmware has written nothing');
    await qemu.execute('stop');
    assert.deepEqual(await low(), ram.bytes.subarray(0, LOW_BYTES));

    ram.bytes.fill(0x5a, 0x1000, 0x3000);
    assert.equal((await low())[0x2fff], 0x5a, 'it sees our writes');

    // Another state than its own: the one before it ran, from a machine that has never run.
    const empty = RamFile.create('empty', RAM_BYTES);
    const other = await RamSnapshots.open(empty, 0);
    try {
      await other.load(other.check([first]));
      empty.bytes.write('loaded', 0x2000);
      const { ram: back } = await other.capture({ full: true });
      await snapshots.load(snapshots.check([back]));
      assert.ok(ram.bytes.equals(empty.bytes));
      assert.deepEqual(await low(), empty.bytes.subarray(0, LOW_BYTES), 'it sees what was loaded');
    } finally {
      await other.close();
      empty.close();
    }
  } finally {
    await qemu.stop();
    await snapshots.close();
    ram.close();
    rmSync(folder, { recursive: true });
  }
});

test(
  'what the kernel says of QEMU’s writes is what the comparison finds',
  { skip: missing || notOnThisMachine(whyNoBits()) },
  async () => {
    const ram = RamFile.create('qemu', RAM_BYTES);
    const [tracked, compared] = [await RamSnapshots.open(ram, 0), await RamSnapshots.open(ram, 0)];
    const qemu = new Qemu(ram);
    const indexes = (bytes: Uint8Array): number[] => [...parseRamChanges(bytes, RAM_BYTES).indexes];
    try {
      await qemu.execute('qmp_capabilities');
      tracked.track(SoftDirtyTracker.open(qemu.pid, ram, null));
      await tracked.capture({ full: true, isStill: true });
      await compared.capture({ full: true });
      let pages = 0;
      for (let round = 0; round < 8; round++) {
        await qemu.execute('cont');
        await qemu.execute('stop');
        const ours = await tracked.capture({ full: false, isStill: true });
        const theirs = await compared.capture({ full: false });
        assert.deepEqual(indexes(ours.ram), indexes(theirs.ram));
        pages += ours.pages;
        if (round === 3) await qemu.execute('system_reset');
      }
      assert.ok(pages > 0, 'the firmware has written nothing');
    } finally {
      await qemu.stop();
      await tracked.close();
      await compared.close();
      ram.close();
    }
  },
);
