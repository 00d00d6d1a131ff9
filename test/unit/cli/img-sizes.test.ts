/** Sizes as qemu-img reads and prints them, and the JSON that it prints. The values were asked of QEMU 7.2. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { joinLists } from '../../../src/cli/img/create-options.ts';
import { splitItems, splitOptions } from '../../../src/cli/img/common.ts';
import { prettyJson } from '../../../src/cli/img/info-json.ts';
import { humanSize, sizeOf, takeSize } from '../../../src/cli/img/sizes.ts';

describe('sizes', () => {
  it('are read with suffixes, fractions and in hexadecimal', () => {
    for (const [text, bytes] of [
      ['0', 0n],
      ['1b', 1n],
      ['1.5k', 1536n],
      ['1.1M', 1153434n],
      ['1.0001K', 1024n],
      ['0x10', 16n],
      ['0x10k', 16384n],
      ['+5', 5n],
      ['5.k', 5120n],
      ['7E', 7n << 60n],
    ] as const)
      assert.equal(sizeOf(text), bytes, text);
    for (const text of ['', 'k', '1.5', '.5k', '1e3', '1kk', '-1', '0x1.8k', 'nan', '1 M', '1M,'])
      assert.equal(sizeOf(text), null, text);
    assert.throws(() => takeSize('image size', '8E'), /Must be between 0 and 9223372036854775807\.$/);
  });

  it('are printed with three significant digits', () => {
    for (const [bytes, text] of [
      [0, '0 B'],
      [999, '999 B'],
      [1000, '0.977 KiB'],
      [1536, '1.5 KiB'],
      [721_408, '704 KiB'],
      [722_432, '706 KiB'],
      [1_023_488, '1e+03 KiB'],
      [1_047_552, '0.999 MiB'],
      [1_048_064, '1 MiB'],
      [123_456_789_504, '115 GiB'],
    ] as const)
      assert.equal(humanSize(bytes), text);
  });

  it('survive a round trip as plain numbers, and no text throws anything but a refusal', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), (bytes) => {
        assert.equal(sizeOf(String(bytes)), bytes);
        assert.equal(sizeOf(`0x${bytes.toString(16)}`), bytes);
      }),
    );
    fc.assert(
      fc.property(fc.string(), (text) => {
        const bytes = sizeOf(text);
        assert.ok(bytes === null || bytes >= 0n);
      }),
    );
  });
});

describe('option lists', () => {
  it('hold commas when they are doubled', () => {
    assert.deepEqual(splitItems('a=1,b=x,,y,c'), ['a=1', 'b=x,y', 'c']);
    assert.deepEqual({ ...splitOptions('a=1,b=x,,y,c') }, { a: '1', b: 'x,y', c: 'on' });
    assert.equal(joinLists('b=2', 'a=1'), 'a=1,b=2');
    for (const list of [',a', 'a,', 'a,,,'])
      assert.throws(() => joinLists(list, undefined), /Invalid option list/);
    assert.equal(joinLists('a,,', undefined), 'a,,');
  });

  it('split and join to the same', () => {
    fc.assert(
      fc.property(fc.array(fc.stringMatching(/^[a-z=,]{1,5}$/), { minLength: 1 }), (items) => {
        const list = items.map((item) => item.replaceAll(',', ',,')).join(',');
        // An item that begins with a comma cannot be told from the end of the one before (nor does QEMU).
        if (items.every((item) => !item.includes(','))) assert.deepEqual(splitItems(list), items);
        else assert.equal(splitItems(list).join('').replaceAll(',', ''), items.join('').replaceAll(',', ''));
      }),
    );
  });
});

describe('JSON', () => {
  it("has QEMU's layout: four spaces, an empty list on two lines, members in QEMU's order", () => {
    assert.equal(
      prettyJson({ format: 'raw', flags: [], 'virtual-size': 1 }),
      '{\n    "flags": [\n    ],\n    "virtual-size": 1,\n    "format": "raw"\n}',
    );
    assert.equal(
      prettyJson([{ a: true }, { b: 'x"' }]),
      '[\n    {\n        "a": true\n    },\n    {\n        "b": "x\\""\n    }\n]',
    );
  });
});
