/** The directory of a file arbiter and all that can be wrong with it. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { ArbiterRecordError, ArbiterUnreachableError } from '../../../src/ha/arbiter/arbiter.ts';
import {
  KEPT_EPOCHS,
  MARKER,
  fileName,
  prepareDirectory,
  readRecord,
  swapRecord,
  type Fs,
} from '../../../src/ha/arbiter/file-calls.ts';
import { smallMount } from '../../helpers/small-mount.ts';

const next = (nonce: string) => ({ nonce, holder: null, members: ['a', 'b'], data: {} });
const unreachable =
  (mayHaveHappened: boolean, text = /./) =>
  (error: unknown) => {
    assert.ok(error instanceof ArbiterUnreachableError, String(error));
    assert.equal(error.mayHaveHappened, mayHaveHappened, error.message);
    assert.match(error.message, text);
    return true;
  };
const fails = (code: string): never => {
  throw Object.assign(new Error(`${code}: by the test`), { code });
};

describe('the directory of a file arbiter', () => {
  let dir: string;
  beforeEach(() => {
    dir = fs.mkdtempSync(path.join(tmpdir(), 'arbiter-'));
    prepareDirectory(dir);
  });
  afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

  /** Epochs from 1 on, each won; returns the last. */
  const grow = (vm: string, to: number) => {
    let from = null;
    for (let epoch = 1; epoch <= to; epoch++) {
      const result = swapRecord(dir, vm, from, next(`n${epoch}`));
      assert.ok(result.outcome === 'won');
      from = result.record;
    }
    return from;
  };

  test('files are for their owner alone, and nothing is left beside them', () => {
    grow('vm', 2);
    assert.deepEqual(fs.readdirSync(dir).toSorted(), [MARKER, 'vm.1', 'vm.2']);
    for (const name of fs.readdirSync(dir))
      assert.equal(fs.statSync(path.join(dir, name)).mode & 0o777, 0o600);
  });

  test('old epochs go, but for the first and the last ones', () => {
    grow('vm', KEPT_EPOCHS + 5);
    const epochs = fs.readdirSync(dir).filter((name) => name.startsWith('vm.'));
    assert.equal(epochs.length, KEPT_EPOCHS + 1);
    assert.ok(epochs.includes('vm.1') && epochs.includes(`vm.${KEPT_EPOCHS + 5}`));
  });

  test('names cannot leave the directory, nor be taken for another', () => {
    const names = ['../up', '.', '..', 'a.1', 'a', 'A', 'ä', '%41', 'a/b', 'x'.repeat(64), ' '];
    for (const name of names) grow(name, 2);
    for (const name of names) assert.equal(readRecord(dir, name)?.vm, name);
    assert.equal(fs.readdirSync(dir).length, 2 * names.length + 1);
    assert.ok(fileName('\u{1F600}'.repeat(16), Number.MAX_SAFE_INTEGER).length < 255);
  });

  test('one that slept while its epoch was used, replaced and removed has lost', () => {
    grow('vm', 2);
    let hasSlept = false;
    const sleepy: Fs = {
      ...fs,
      linkSync: (from, to) => {
        if (!hasSlept) {
          hasSlept = true;
          let from2 = readRecord(dir, 'vm')!;
          for (let epoch = 3; epoch < 30; epoch++) {
            const result = swapRecord(dir, 'vm', from2, next(`other ${epoch}`));
            assert.ok(result.outcome === 'won');
            from2 = result.record;
          }
          assert.ok(!fs.existsSync(path.join(dir, 'vm.3')));
        }
        fs.linkSync(from, to);
      },
    };
    const result = swapRecord(dir, 'vm', { epoch: 2, nonce: 'n2' }, next('mine'), sleepy);
    assert.ok(hasSlept);
    assert.equal(result.outcome === 'lost' && result.current?.epoch, 29);
    assert.ok(!fs.existsSync(path.join(dir, 'vm.3')));
  });

  test('one whose view of the directory is old has lost, whatever it sees there', () => {
    grow('vm', 20);
    // It sees the names of long ago, and can still open what has been removed only where it kept it.
    const old = ['vm.1', 'vm.2'];
    fs.writeFileSync(
      path.join(dir, 'vm.2'),
      JSON.stringify({ version: 1, vm: 'vm', epoch: 2, ...next('n2') }),
    );
    let looks = 0;
    const stale = {
      ...fs,
      readdirSync: ((at: string) => (looks++ < 1 ? old : fs.readdirSync(at))) as typeof fs.readdirSync,
      linkSync: (from: fs.PathLike, to: fs.PathLike) => {
        fs.unlinkSync(path.join(dir, 'vm.2'));
        fs.linkSync(from, to);
      },
    };
    const result = swapRecord(dir, 'vm', { epoch: 2, nonce: 'n2' }, next('mine'), stale);
    assert.equal(result.outcome === 'lost' && result.current?.epoch, 20);
  });

  test('a link that was made and answered "exists" (a repeated NFS call) is known by its nonce', () => {
    const from = grow('vm', 1);
    const repeated: Fs = {
      ...fs,
      linkSync: (source, to) => {
        fs.linkSync(source, to);
        fails('EEXIST');
      },
    };
    assert.equal(swapRecord(dir, 'vm', from, next('mine'), repeated).outcome, 'won');
  });

  test('a link whose answer is an error may have been made; the same swap later tells', () => {
    const from = grow('vm', 1);
    const broken: Fs = {
      ...fs,
      linkSync: (source, to) => {
        fs.linkSync(source, to);
        fails('EIO');
      },
    };
    assert.throws(() => swapRecord(dir, 'vm', from, next('mine'), broken), unreachable(true));
    assert.equal(swapRecord(dir, 'vm', from, next('mine')).outcome, 'won');
    assert.equal(swapRecord(dir, 'vm', from, next('other')).outcome, 'lost');
  });

  test('what goes wrong before the link has surely not happened', () => {
    const from = grow('vm', 1);
    for (const call of ['openSync', 'writeSync', 'fsyncSync', 'closeSync'] as const) {
      let isArmed = false;
      const broken: Fs = {
        ...fs,
        readdirSync: ((at: string) => {
          isArmed = true;
          return fs.readdirSync(at);
        }) as typeof fs.readdirSync,
        openSync: (file, flags, mode) => {
          const writes = typeof flags === 'number' && (flags & fs.constants.O_CREAT) !== 0;
          if (call === 'openSync' && writes) fails('ENOSPC');
          return fs.openSync(file, flags, mode);
        },
        ...(call !== 'openSync' && call !== 'closeSync' && { [call]: () => isArmed && fails('ENOSPC') }),
      };
      if (call === 'closeSync') continue;
      assert.throws(() => swapRecord(dir, 'vm', from, next('mine'), broken), unreachable(false, /full/));
      assert.deepEqual(readRecord(dir, 'vm')?.epoch, 1);
    }
    assert.deepEqual(fs.readdirSync(dir).toSorted(), [MARKER, 'vm.1']);
  });

  test('a damaged, foreign or newer file in the place of the newest stops everybody', () => {
    grow('vm', 1);
    const file = path.join(dir, 'vm.2');
    const cases: [() => void, RegExp][] = [
      [() => fs.writeFileSync(file, ''), /not a record/],
      [() => fs.writeFileSync(file, '{"version":1,"vm":"vm"'), /not a record/],
      [() => fs.writeFileSync(file, JSON.stringify({ version: 2 })), /version 2/],
      [() => fs.copyFileSync(path.join(dir, 'vm.1'), file), /holds epoch 1/],
      [() => fs.writeFileSync(file, 'x'.repeat(20_000)), /too large/],
      [() => fs.symlinkSync('vm.1', file), /symbolic link/],
      [() => fs.mkdirSync(file), /not a plain file/],
    ];
    for (const [make, text] of cases) {
      make();
      for (const call of [
        () => readRecord(dir, 'vm'),
        () => swapRecord(dir, 'vm', { epoch: 1, nonce: 'n1' }, next('m')),
      ]) {
        assert.throws(call, (error) => error instanceof ArbiterRecordError && text.test(error.message));
      }
      fs.rmSync(file, { recursive: true });
    }
  });

  test('files of others beside the records are left alone', () => {
    for (const name of ['vm.x', 'vm.01', 'vm.1.swp', 'vm.1~', 'README']) {
      fs.writeFileSync(path.join(dir, name), 'x');
    }
    assert.equal(readRecord(dir, 'vm'), null);
    grow('vm', 2);
    assert.equal(fs.readdirSync(dir).length, 8);
  });

  test('what a writer that died has left behind goes when it has been there for long, whatever clocks say', (t) => {
    const orphan = path.join(dir, `.new-${'0a'.repeat(12)}`);
    fs.writeFileSync(orphan, 'x');
    fs.utimesSync(orphan, 1, 1);
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 1e12 });
    grow('a', 2);
    assert.ok(fs.existsSync(orphan));
    const now = performance.now();
    t.mock.method(performance, 'now', () => now + 3_700_000);
    grow('b', 1);
    assert.ok(!fs.existsSync(orphan));
  });

  test('an empty directory, as below a file system that is not mounted, is no arbiter', () => {
    fs.rmSync(path.join(dir, MARKER));
    assert.throws(() => readRecord(dir, 'vm'), unreachable(false, /is the file system mounted/i));
    assert.throws(() => swapRecord(dir, 'vm', null, next('n')), unreachable(false));
    fs.rmSync(dir, { recursive: true });
    assert.throws(() => swapRecord(dir, 'vm', null, next('n')), unreachable(false));
    assert.throws(() => prepareDirectory(dir), unreachable(false, /mounted/));
  });

  test('preparing twice keeps the identity', () => {
    assert.equal(prepareDirectory(dir), prepareDirectory(dir));
  });
});

test('a full, a read-only and a vanished file system', (t) => {
  const mount = smallMount('size=64k,nr_inodes=64');
  if (!mount) {
    t.skip('mounting needs root');
    return;
  }
  try {
    prepareDirectory(mount.dir);
    assert.equal(swapRecord(mount.dir, 'vm', null, next('n1')).outcome, 'won');
    const from = { epoch: 1, nonce: 'n1' };
    mount.remount('ro');
    assert.throws(() => swapRecord(mount.dir, 'vm', from, next('n2')), unreachable(false, /read-only/));
    assert.equal(readRecord(mount.dir, 'vm')?.epoch, 1);
    mount.remount('rw');
    assert.throws(() => fs.writeFileSync(path.join(mount.dir, 'filler'), Buffer.alloc(128 * 1024)), /ENOSPC/);
    assert.throws(() => swapRecord(mount.dir, 'vm', from, next('n3')), unreachable(false, /full/));
    fs.rmSync(path.join(mount.dir, 'filler'));
    assert.equal(swapRecord(mount.dir, 'vm', from, next('n3')).outcome, 'won');
    mount.unmount();
    assert.throws(() => readRecord(mount.dir, 'vm'), unreachable(false, /mounted/));
  } finally {
    mount.remove();
  }
});
