/** What disks can be and become; and the record as a file. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import {
  DISKS_KINDS,
  DisksError,
  NO_DISKS,
  changeDisks,
  isBitmapEnough,
  isUsable,
  type DisksEvent,
  type DisksKind,
  type DisksRecord,
} from '../../../../src/ha/disks/record.ts';
import { DISKS_FILE, readDisks, writeDisks } from '../../../../src/ha/disks/record-file.ts';

const alone = { epoch: 1, nonce: 'a' };
const pair = { epoch: 2, nonce: 'b' };
const after = { epoch: 3, nonce: 'c' };
const sizes = [{ id: 'disk0', sizeBytes: 1024 }];

const EVENTS: readonly DisksEvent[] = [
  { type: 'made', of: alone, sizes },
  { type: 'holds', of: after },
  { type: 'starts', of: after },
  { type: 'invited', sizes },
  { type: 'loaded', of: pair },
  { type: 'takes-over', of: after },
  { type: 'merged' },
  { type: 'gave-way' },
  { type: 'left' },
  { type: 'removed' },
];

/** What each event makes of each kind; where there is no word it must not happen. */
const BECOMES: Record<DisksKind, Partial<Record<DisksEvent['type'], DisksKind>>> = {
  none: { made: 'whole', invited: 'syncing', removed: 'none' },
  whole: { holds: 'whole', 'gave-way': 'stale', left: 'stale', removed: 'none' },
  replica: { starts: 'whole', 'takes-over': 'merging', invited: 'syncing', left: 'stale', removed: 'none' },
  merging: { merged: 'whole', holds: 'merging', left: 'stale', removed: 'none' },
  syncing: { loaded: 'replica', invited: 'syncing', left: 'stale', removed: 'none' },
  stale: { invited: 'syncing', left: 'stale', removed: 'none' },
};

const of = (kind: DisksKind): DisksRecord =>
  kind === 'none' ? NO_DISKS : { kind, of: kind === 'syncing' ? null : pair, isInStep: false, sizes };

function walk(...events: DisksEvent[]): DisksRecord {
  return events.reduce(changeDisks, NO_DISKS);
}

describe('what disks become', () => {
  for (const kind of DISKS_KINDS) {
    test(kind, () => {
      for (const event of EVENTS) {
        const to = BECOMES[kind][event.type];
        if (to === undefined) assert.throws(() => changeDisks(of(kind), event), DisksError, event.type);
        else assert.equal(changeDisks(of(kind), event).kind, to, event.type);
      }
    });
  }

  test('a start is possible from what was whole, a replica or a takeover, and from nothing else', () => {
    assert.deepEqual(
      DISKS_KINDS.filter((kind) => isUsable(of(kind))),
      ['whole', 'replica', 'merging'],
    );
  });
});

describe("the survivor's bitmap is enough", () => {
  const secondary = [
    { type: 'invited', sizes },
    { type: 'loaded', of: pair },
  ] as const;
  const primary = [
    { type: 'made', of: alone, sizes },
    { type: 'holds', of: pair },
  ] as const;
  const cases: [string, readonly DisksEvent[], boolean][] = [
    ['for a secondary that died', secondary, true],
    ['for one that was told to leave', [...secondary, { type: 'left' }], true],
    ['for one that was told twice', [...secondary, { type: 'left' }, { type: 'left' }], true],
    ['for a primary that gave way', [...primary, { type: 'gave-way' }], true],
    ['not for a primary that died: it may have written alone', primary, false],
    ['not for one that lost', [...primary, { type: 'left' }], false],
    ['not for a secondary that took over', [...secondary, { type: 'takes-over', of: after }], false],
    [
      'not for one that took over and left',
      [...secondary, { type: 'takes-over', of: after }, { type: 'left' }],
      false,
    ],
    ['not for one that was started from its disk', [...secondary, { type: 'starts', of: after }], false],
    ['not for half a resync', [...secondary, { type: 'invited', sizes }], false],
    ['not for half a resync that was given up', [{ type: 'invited', sizes }, { type: 'left' }], false],
  ];
  for (const [what, events, isEnough] of cases) {
    test(what, () => assert.equal(isBitmapEnough(walk(...events), pair), isEnough));
  }

  test('of that very pair only', () => {
    const record = walk(...secondary);
    for (const other of [null, alone, after, { epoch: 2, nonce: 'never was whole' }]) {
      assert.equal(isBitmapEnough(record, other), false);
    }
  });
});

describe('disks.json', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'disks-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  test('is what it was, and nothing lies beside it', async () => {
    assert.deepEqual(await readDisks(folder, 'vm'), NO_DISKS);
    for (const kind of DISKS_KINDS) {
      await writeDisks(folder, 'vm', of(kind));
      assert.deepEqual(await readDisks(folder, 'vm'), of(kind));
    }
    assert.deepEqual(await readdir(folder), [DISKS_FILE]);
  });

  test('that cannot be read is no empty one', async () => {
    const file = path.join(folder, DISKS_FILE);
    await writeDisks(folder, 'vm', of('whole'));
    const whole = await readFile(file, 'utf8');
    const cases: [string, RegExp][] = [
      ['', /not a record/],
      [whole.slice(0, 40), /not a record/],
      [whole.replace('"version": 1', '"version": 2'), /of version 2, and this program knows version 1/],
      [whole.replace('"vm"', '"other"').replace('"other": "vm"', '"vm": "other"'), /not a record|'other'/],
      [whole.replace('"whole"', '"fine"'), /not a record/],
      [' '.repeat(70_000), /too large/],
    ];
    for (const [text, expected] of cases) {
      await writeFile(file, text);
      await assert.rejects(readDisks(folder, 'vm'), (error) => {
        assert.ok(error instanceof DisksError, String(error));
        assert.match(error.message, expected);
        return true;
      });
    }
  });

  test('stays as it was when it cannot be written', async (t) => {
    await writeDisks(folder, 'vm', of('replica'));
    await writeFile(path.join(folder, `${DISKS_FILE}.new`), 'half of one that was broken off');
    await assert.rejects(writeDisks(path.join(folder, 'none'), 'vm', of('whole')), /cannot be written/);
    assert.deepEqual(await readDisks(folder, 'vm'), of('replica'));
    if (process.getuid?.() === 0) {
      t.diagnostic('as root nothing is read-only');
      return;
    }
    await chmod(folder, 0o500);
    await assert.rejects(writeDisks(folder, 'vm', of('whole')), DisksError);
    await chmod(folder, 0o700);
    assert.deepEqual(await readDisks(folder, 'vm'), of('replica'));
  });
});
