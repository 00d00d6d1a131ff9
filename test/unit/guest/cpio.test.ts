/** The cpio writer: format, order, determinism. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { writeCpio, type CpioEntry } from '../../../src/guest/cpio.ts';

interface Header {
  readonly name: string;
  readonly mode: number;
  readonly links: number;
  readonly mtime: number;
  readonly data: string;
  readonly rdev: readonly [number, number];
}

/** A reader of the format, written from its specification and not from the writer. */
function readCpio(archive: Buffer): Header[] {
  const headers: Header[] = [];
  const align = (at: number): number => (at + 3) & ~3;
  for (let at = 0; ;) {
    assert.equal(archive.toString('latin1', at, at + 6), '070701');
    const field = (index: number): number =>
      parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const size = field(6);
    const nameAt = at + 110;
    const name = archive.toString('utf8', nameAt, nameAt + field(11) - 1);
    if (name === 'TRAILER!!!') return headers;
    const dataAt = align(nameAt + field(11));
    const data = archive.toString('utf8', dataAt, dataAt + size);
    headers.push({
      name,
      mode: field(1),
      links: field(4),
      mtime: field(5),
      data,
      rdev: [field(9), field(10)],
    });
    at = align(dataAt + size);
  }
}

const ENTRIES: readonly CpioEntry[] = [
  { kind: 'file', path: 'usr/bin/tool', data: Buffer.from('hello'), mode: 0o755 },
  { kind: 'symlink', path: 'init', target: '/usr/bin/tool' },
  { kind: 'directory', path: 'usr', mode: 0o700 },
  { kind: 'char-device', path: 'dev/console', major: 5, minor: 1 },
];

describe('writeCpio', () => {
  it('writes each kind of entry with its type, mode and content', () => {
    const byName = new Map(readCpio(Buffer.from(writeCpio(ENTRIES))).map((header) => [header.name, header]));
    assert.equal(byName.get('usr/bin/tool')?.mode, 0o100755);
    assert.equal(byName.get('usr/bin/tool')?.data, 'hello');
    assert.equal(byName.get('init')?.mode, 0o120777);
    assert.equal(byName.get('init')?.data, '/usr/bin/tool');
    assert.equal(byName.get('dev/console')?.mode, 0o020600);
    assert.deepEqual(byName.get('dev/console')?.rdev, [5, 1]);
  });

  it('adds missing parents, keeps given ones, and puts each before its children', () => {
    const names = readCpio(Buffer.from(writeCpio(ENTRIES))).map((header) => header.name);
    assert.deepEqual(names, ['dev', 'dev/console', 'init', 'usr', 'usr/bin', 'usr/bin/tool']);
    const usr = readCpio(Buffer.from(writeCpio(ENTRIES))).find((header) => header.name === 'usr');
    assert.equal(usr?.mode, 0o040700);
  });

  it('gives the same bytes whatever the order of the entries, with no time in them', () => {
    const archive = writeCpio(ENTRIES);
    assert.deepEqual(writeCpio([...ENTRIES].reverse()), archive);
    assert.ok(readCpio(Buffer.from(archive)).every((header) => header.mtime === 0));
    assert.equal(archive.length % 512, 0);
  });

  it('counts bytes, not characters, in names', () => {
    const [header] = readCpio(
      Buffer.from(writeCpio([{ kind: 'file', path: 'grüße', data: Buffer.from('x') }])),
    );
    assert.equal(header?.name, 'grüße');
    assert.equal(header.data, 'x');
  });
});
