/** Parts of the registry that the contract's suite does not reach: who is alive, what is read, calls about one thing. */
import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { ParameterError } from '../../../src/base/errors.ts';
import { FileArbiter } from '../../../src/ha/arbiter/file-arbiter.ts';
import { FileRegistry } from '../../../src/ha/registry/file-registry.ts';
import { readStates, scan, swapState } from '../../../src/ha/registry/file-store.ts';
import { prepareDirectory } from '../../../src/ha/arbiter/file-calls.ts';
import { Liveness } from '../../../src/ha/registry/liveness.ts';
import { NewestOnly } from '../../../src/ha/registry/newest-only.ts';
import { RegistryDataError, RegistryUnreachableError } from '../../../src/ha/registry/registry.ts';
import { ENTRY, HOST, VIEW, decode, encode, outlineOf } from '../../../src/ha/registry/schema.ts';
import { entryOf, hostOf, viewOf } from '../../conformance/registry.ts';

describe('who is alive', () => {
  test('a host is, as long as its text is seen to change, by the clock of who looks', () => {
    const live = new Liveness(1_000);
    live.look({ a: '1', b: '1' }, 0);
    assert.ok(live.isAlive('a', 0) && live.isAlive('b', 0));
    for (let at = 500; at <= 2_000; at += 500) live.look({ a: `${at}`, b: '1' }, at);
    assert.ok(live.isAlive('a', 2_000) && !live.isAlive('b', 2_000));
    live.look({ a: '2', b: '2' }, 2_500);
    assert.ok(live.isAlive('b', 2_500));
    live.look({ a: '2' }, 2_600);
    assert.ok(!live.isAlive('b', 2_600) && !live.isAlive('never', 2_600));
  });

  test('who could not look for long does not take the others for dead', () => {
    const live = new Liveness(1_000);
    live.look({ a: '1' }, 0);
    live.look({ a: '1' }, 60_000);
    assert.ok(live.isAlive('a', 60_000));
    live.look({ a: '1' }, 60_900);
    assert.ok(!live.isAlive('a', 61_100));
  });
});

describe('what stands there', () => {
  test('is what was written, unknown members and the next version included', () => {
    const entry = { ...entryOf('vm'), version: 2 as never, later: [1, { more: true }] };
    assert.deepEqual(decode(ENTRY, encode(ENTRY, entry), 'vm', 'x'), entry);
    const view = viewOf('vm', 3, 'a', 'b');
    assert.deepEqual(decode(VIEW, encode(VIEW, view), 'vm', 'x'), view);
    assert.deepEqual(decode(HOST, encode(HOST, hostOf('a')), 'a', 'x'), hostOf('a'));
  });

  test('or is named and not believed', () => {
    const text = encode(ENTRY, entryOf('vm'));
    for (const [bad, why] of [
      ['', /JSON/],
      ['[]', /not the entry/],
      [text.replace('"version":1', '"version":3'), /newer/],
      [text.replace('"cpus":1', '"cpus":-1'), /cpus/],
      [text.replace('{', `{"x":"${'y'.repeat(40_000)}",`), /more than/],
    ] as const) {
      assert.throws(
        () => decode(ENTRY, bad, 'vm', 'etcd key k'),
        (error) =>
          error instanceof RegistryDataError && /etcd key k/.test(error.message) && why.test(error.message),
      );
    }
    assert.throws(() => decode(ENTRY, text, 'other', 'k'), /that of 'vm'/);
    assert.throws(() => encode(ENTRY, { ...entryOf('vm'), home: 'a/b' }), ParameterError);
  });

  test('a view whose counters alone have changed has the same outline', () => {
    const view = viewOf('vm', 1, 'a', 'b');
    const counted = {
      ...view,
      checkpoints: { count: 1, perSecond: 1, byCause: {}, lastPauseMs: 1, lastAtMs: 1 },
      copies: view.copies.map((copy) => ({ ...copy, resync: { doneBytes: 1, totalBytes: 2 } })),
    };
    assert.equal(outlineOf(counted), outlineOf(view));
    assert.notEqual(outlineOf({ ...view, state: 'suspect' }), outlineOf(view));
  });
});

test('of calls about one thing one runs, the newest of those that wait is next, and others are not held up', async () => {
  const ran: string[] = [];
  const ends: (() => void)[] = [];
  const newest = new NewestOnly((value: string) => {
    ran.push(value);
    return new Promise<string>((resolve) => ends.push(() => resolve(value)));
  });
  const first = newest.call('x', 'x1');
  const second = newest.call('x', 'x2');
  const third = newest.call('x', 'x3');
  const other = newest.call('y', 'y1');
  assert.deepEqual(ran, ['x1', 'y1']);
  for (const end of ends.splice(0)) end();
  assert.equal(await first, 'x1');
  assert.equal(await other, 'y1');
  await Promise.resolve();
  for (const end of ends.splice(0)) end();
  assert.deepEqual([await second, await third], ['x3', 'x3']);
  assert.deepEqual(ran, ['x1', 'y1', 'x3']);
});

describe('the directory', () => {
  async function inDirectory(work: (dir: string) => Promise<void> | void): Promise<void> {
    const dir = await mkdtemp(path.join(tmpdir(), 'registry-'));
    try {
      await work(dir);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }

  test('one that is no arbiter\u2019s is not touched', () =>
    inDirectory(async (dir) => {
      const registry = new FileRegistry(dir, { deadlineMs: 60_000 });
      await assert.rejects(
        registry.entries(),
        (error) => error instanceof RegistryUnreachableError && /mounted/.test(error.message),
      );
      await registry.close();
    }));

  test('old states go, no state comes twice, and a removed name can be used again', () =>
    inDirectory((dir) => {
      prepareDirectory(dir);
      for (let at = 0; at < 20; at++) {
        assert.deepEqual(swapState(dir, 'entries', 'vm', at, `{"at":${at + 1}}`), {
          isPut: true,
          version: at + 1,
          text: `{"at":${at + 1}}`,
        });
      }
      assert.equal(swapState(dir, 'entries', 'vm', 3, '{}').isPut, false);
      assert.equal(swapState(dir, 'entries', 'vm', 0, '{}').isPut, false);
      assert.equal(swapState(dir, 'entries', 'vm', 20, null).isPut, true);
      assert.deepEqual(readStates(dir, 'entries', ['vm']), [{ version: 21, text: null }]);
      assert.deepEqual(swapState(dir, 'entries', 'vm', 0, '{}'), { isPut: true, version: 22, text: '{}' });
      assert.deepEqual(scan(dir).entries, { vm: 22 });
    }));

  test('a file that cannot be read is told of, and hides nothing else', () =>
    inDirectory(async (dir) => {
      const arbiter = new FileArbiter(dir, { deadlineMs: 60_000 });
      await arbiter.prepare();
      await arbiter.close();
      const troubles: string[] = [];
      const registry = new FileRegistry(dir, {
        deadlineMs: 60_000,
        onTrouble: (text) => troubles.push(text),
      });
      await registry.putEntry(entryOf('good'), null);
      // Whole at once, as every writer's: a look that finds an empty file takes it for a removed entry.
      const put = async (file: string, text: string): Promise<void> => {
        await writeFile(path.join(dir, 'new'), text);
        await rename(path.join(dir, 'new'), path.join(dir, 'registry', file));
      };
      await put('entries/bad.1', '{"version":9}');
      await put('entries/not a name', '');
      await put('hosts/odd.json', 'x');
      assert.deepEqual(
        (await registry.entries()).map(({ value }) => value.spec.name),
        ['good'],
      );
      await assert.rejects(registry.entry('bad'), RegistryDataError);
      assert.deepEqual(await registry.hosts(), []);
      assert.ok(troubles.some((text) => text.includes('entries/bad.1')));
      await registry.close();
    }));
});
