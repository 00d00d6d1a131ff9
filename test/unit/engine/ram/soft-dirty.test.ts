/** The kernel's word on written pages as a filter: against the comparison, with entries of our own and with the kernel's. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ftruncateSync, mkdtempSync, openSync, closeSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import fc from 'fast-check';
import { RamFile, RamSnapshots, SoftDirtyTracker, whyNoSoftDirty } from '../../../../src/engine/ram/index.ts';
import type { WriteTracker } from '../../../../src/engine/ram/index.ts';
import { findMapping, whyNoBits } from '../../../../src/engine/ram/soft-dirty.ts';
import { notOnThisMachine } from '../../../helpers/not-here.ts';

const PAGE = 4096;
const RAM_BYTES = 2 * 1024 * 1024 + 5 * PAGE;
const PAGES = RAM_BYTES / PAGE;
/** Somewhere in the file, as a process's mapping is. */
const FIRST_ENTRY = 1000;
/** Present, a frame number, and bit 55 or not. */
const DIRTY = Uint8Array.of(1, 2, 3, 0, 0, 0, 0x80, 0x80);
const CLEAN = Uint8Array.of(1, 2, 3, 0, 0, 0, 0x00, 0x80);

/** A process whose writes we make ourselves. */
class Writer implements WriteTracker {
  readonly entries;
  readonly #ram: RamFile;

  constructor(ram: RamFile, folder: string) {
    this.#ram = ram;
    this.entries = { fd: openSync(join(folder, `entries-${Math.random()}`), 'w+'), offset: FIRST_ENTRY * 8 };
    // A fresh mapping is all written.
    this.#fill(DIRTY);
  }

  write(page: number, at: number, value: number): void {
    this.#ram.bytes[page * PAGE + at] = value;
    writeSync(this.entries.fd, DIRTY, 0, 8, (FIRST_ENTRY + page) * 8);
  }

  clear(): void {
    this.#fill(CLEAN);
  }

  die(): void {
    ftruncateSync(this.entries.fd, 0);
  }

  close(): void {
    closeSync(this.entries.fd);
  }

  #fill(entry: Uint8Array): void {
    const all = Buffer.concat(Array.from({ length: PAGES }, () => entry));
    writeSync(this.entries.fd, all, 0, all.length, FIRST_ENTRY * 8);
  }
}

async function withPair(
  threads: number,
  act: (sides: { ram: RamFile; snapshots: RamSnapshots; writer: Writer }[], folder: string) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'soft-dirty-'));
  const sides = [];
  for (const name of ['primary', 'secondary']) {
    const ram = RamFile.create(name, RAM_BYTES);
    const snapshots = await RamSnapshots.open(ram, threads);
    const writer = new Writer(ram, folder);
    snapshots.track(writer);
    sides.push({ ram, snapshots, writer });
  }
  try {
    await act(sides, folder);
  } finally {
    for (const { ram, snapshots } of sides) {
      await snapshots.close();
      ram.close();
    }
    rmSync(folder, { recursive: true });
  }
}

for (const threads of [0, 2]) {
  test(`written pages alone are compared, and nothing is missed, ${threads} threads`, async () => {
    await withPair(threads, async ([primary, secondary]) => {
      assert.ok(primary && secondary);
      const writes = fc.array(fc.tuple(fc.nat(PAGES - 1), fc.nat(PAGE - 1), fc.nat(2)), { maxLength: 8 });
      const step = fc.record({
        full: fc.boolean(),
        isStill: fc.boolean(),
        bounded: fc.boolean(),
        staged: fc.boolean(),
        ours: writes,
        theirs: writes,
      });
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (steps) => {
          for (const { full, isStill, bounded, staged, ours, theirs } of steps) {
            for (const write of ours) primary.writer.write(...write);
            for (const write of theirs) secondary.writer.write(...write);
            const options = { full: full || !primary.snapshots.hasBaseline, isStill };
            let { ram, more } = await primary.snapshots.capture(
              bounded ? { ...options, maxPages: 256 } : options,
            );
            if (staged) await secondary.snapshots.stage(secondary.snapshots.check([ram]));
            else await secondary.snapshots.load(secondary.snapshots.check([ram]));
            while (more || staged) {
              ({ ram, more } = await primary.snapshots.capture({ full: false, isStill }));
              await secondary.snapshots.load(secondary.snapshots.check([ram]));
              break;
            }
            assert.ok(primary.ram.bytes.equals(secondary.ram.bytes));
          }
        }),
        { numRuns: 25 },
      );
    });
  });
}

test('the filter is asked only while it can be believed', async () => {
  await withPair(0, async ([primary], folder) => {
    assert.ok(primary);
    const { ram, snapshots, writer } = primary;
    const count = async (isStill: boolean): Promise<number> =>
      (await snapshots.capture({ full: false, isStill })).pages;
    writer.write(1, 0, 1);
    assert.equal((await snapshots.capture({ full: true, isStill: true })).pages, 1);
    // What is written behind its back shows whether it was asked.
    ram.bytes[2 * PAGE] = 1;
    writer.write(3, 0, 1);
    assert.equal(await count(true), 1);
    assert.equal(await count(false), 1, 'a guest that runs is compared');
    ram.bytes[2 * PAGE] = 2;
    assert.equal(await count(true), 0);
    const again = new Writer(ram, folder);
    snapshots.track(again);
    assert.equal(await count(true), 1, 'another tracker counts from the next capture on');
    ram.bytes[2 * PAGE] = 3;
    assert.equal(await count(true), 0);
    again.die();
    assert.equal(await count(true), 1, 'a process that has ended says nothing');
    snapshots.track(null);
    ram.bytes[2 * PAGE] = 4;
    assert.equal(await count(true), 1);
  });
});

test('what this process writes itself is found when it is told', async () => {
  for (const threads of [0, 2]) {
    await withPair(threads, async ([primary, secondary]) => {
      assert.ok(primary && secondary);
      const { ram, snapshots } = primary;
      const move = async (): Promise<number> => {
        const { ram: changes, pages } = await snapshots.capture({
          full: !snapshots.hasBaseline,
          isStill: true,
        });
        await secondary.snapshots.load(secondary.snapshots.check([changes]));
        return pages;
      };
      await move();
      // Across the end of a page, and in one whose block had no data yet.
      ram.bytes.fill(1, 9 * PAGE - 1, 9 * PAGE + 1);
      snapshots.wrote(9 * PAGE - 1, 2);
      ram.bytes[300 * PAGE] = 1;
      snapshots.wrote(300 * PAGE, 1);
      assert.equal(await move(), 3);
      assert.ok(ram.bytes.equals(secondary.ram.bytes));
      assert.equal(await move(), 0);
      // A load undoes it.
      secondary.ram.bytes[5 * PAGE] = 7;
      secondary.snapshots.wrote(5 * PAGE, 4);
      await move();
      assert.ok(ram.bytes.equals(secondary.ram.bytes));
    });
  }
});

test('who takes over at a load is believed at once', async () => {
  await withPair(0, async ([primary, secondary], folder) => {
    assert.ok(primary && secondary);
    const { ram, snapshots } = secondary;
    primary.writer.write(1, 0, 1);
    const move = async (next: Writer): Promise<void> => {
      const { ram: changes } = await primary.snapshots.capture({ full: !primary.snapshots.hasBaseline });
      await snapshots.load(snapshots.check([changes]), next);
    };
    const second = new Writer(ram, folder);
    await move(second);
    second.write(7, 0, 1);
    ram.bytes[8 * PAGE] = 1;
    primary.writer.write(2, 0, 1);
    await move(new Writer(ram, folder));
    assert.equal(ram.bytes[2 * PAGE], 1);
    assert.equal(ram.bytes[7 * PAGE], 0, 'what it wrote is undone');
    assert.equal(ram.bytes[8 * PAGE], 1, 'what nobody wrote is not even looked at');
  });
});

test('what the machine has against it is said', () => {
  const ram = RamFile.create('x', PAGE);
  try {
    const open = (pid: number, reason?: string | null) => () => SoftDirtyTracker.open(pid, ram, reason);
    assert.throws(open(process.pid, 'of swap'), /comparison alone: of swap/);
    assert.throws(open(1 << 30, null), /process \d+ does not let us see .*ENOENT/);
    const reason = whyNoSoftDirty();
    if (reason === null) SoftDirtyTracker.open(process.pid, ram).close();
    else assert.throws(open(process.pid), (error: Error) => error.message.includes(reason));
  } finally {
    ram.close();
  }
});

test('a mapping is found whole or not at all', () => {
  const ram = { name: 'x', byteLength: 3 * PAGE };
  const line = (start: string, end: string, offset: string, inode: number): string =>
    `${start}-${end} rw-s ${offset} 00:01 ${inode}                               /memfd:x (deleted)`;
  const whole = line('7f0000001000', '7f0000004000', '00000000', 77);
  const other = '5600-5700 r--p 00000000 fe:00 77                                /usr/bin/x';
  assert.equal(findMapping([other, whole, ''].join('\n'), 77, ram), 0x7f0000001000);
  const parts = [
    line('7f0000001000', '7f0000002000', '00000000', 77),
    line('7f0000002000', '7f0000004000', '00001000', 77),
  ];
  assert.equal(findMapping(parts.join('\n'), 77, ram), 0x7f0000001000);
  assert.throws(() => findMapping(whole, 78, ram), /is not mapped/);
  assert.throws(() => findMapping(parts[0]!, 77, ram), /is not mapped/);
  const twice = line('7e0000001000', '7e0000004000', '00000000', 77);
  assert.throws(() => findMapping([whole, twice].join('\n'), 77, ram), /mapped twice/);
});

/** Maps the file at descriptor 3 and writes to the pages it is told. */
const MAPPER = `
  import koffi from 'koffi';
  import { createInterface } from 'node:readline';
  const mmap = koffi.load('libc.so.6').func('void *mmap(void *, size_t, int, int, int, int64_t)');
  const length = Number(process.argv[1]);
  const ram = Buffer.from(koffi.view(mmap(null, length, 3, 1, 3, 0), length));
  console.log('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    for (const at of line.split(' ').filter(Boolean)) ram[at]++;
    console.log('written');
  }
`;

test(
  'what the kernel says is what the comparison finds',
  { skip: notOnThisMachine(whyNoBits()) },
  async () => {
    const ram = RamFile.create('tracked', RAM_BYTES);
    const [tracked, compared] = [await RamSnapshots.open(ram, 2), await RamSnapshots.open(ram, 0)];
    const child = spawn(process.execPath, ['--input-type=module', '-e', MAPPER, String(RAM_BYTES)], {
      stdio: ['pipe', 'pipe', 'inherit', ram.fd],
      cwd: import.meta.dirname,
    });
    try {
      const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
      await lines.next();
      // Nothing is swapped out in the seconds that this takes, so that it runs where it would not be relied on.
      tracked.track(SoftDirtyTracker.open(child.pid!, ram, null));
      await tracked.capture({ full: true, isStill: true });
      await compared.capture({ full: true });
      await fc.assert(
        fc.asyncProperty(fc.uniqueArray(fc.nat(RAM_BYTES - 1), { maxLength: 40 }), async (places) => {
          child.stdin!.write(places.join(' ') + '\n');
          await lines.next();
          const ours = await tracked.capture({ full: false, isStill: true });
          const theirs = await compared.capture({ full: false });
          assert.equal(ours.pages, theirs.pages);
          assert.equal(ours.pages, new Set(places.map((at) => Math.floor(at / PAGE))).size);
        }),
        { numRuns: 50 },
      );
    } finally {
      child.kill();
      await once(child, 'exit');
      await tracked.close();
      await compared.close();
      ram.close();
    }
  },
);
