// Two machines that cannot be a pair: the refusal names the option that differs.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { encodeHello, incompatibility, parseHello } from '../../../src/checkpoint/messages.ts';
import type { Hello } from '../../../src/checkpoint/messages.ts';

const hello = (buildId: string, ...buildParts: string[]): Hello => {
  const rest = { engine: 'qemu', ramBytes: 4096, colo: true, disks: [], nics: [] };
  return { ...rest, buildId, ...(buildParts.length > 0 ? { buildParts } : {}) };
};
const QEMU = 'QEMU 7.2.22 (Debian)';
const OURS = hello('a', QEMU, '-cpu qemu64', '-device e1000', '-device rtl8139');

const cases: [string, Hello, string | null][] = [
  ['the same build', hello('a', 'whatever'), null],
  [
    'another option',
    hello('b', QEMU, '-cpu max', '-device e1000', '-device rtl8139'),
    "'-cpu max' does not match '-cpu qemu64'; start both with the same options",
  ],
  [
    'another version',
    hello('b', 'QEMU 8.0.2', '-cpu qemu64', '-device e1000', '-device rtl8139'),
    `'QEMU 8.0.2' does not match '${QEMU}'; start both with the same options`,
  ],
  [
    'one less',
    hello('b', QEMU, '-cpu qemu64', '-device e1000'),
    "only this side has '-device rtl8139'; start both with the same options",
  ],
  [
    'one more',
    hello('b', QEMU, '-cpu qemu64', '-device e1000', '-device rtl8139', '-smp 2'),
    "only the other side has '-smp 2'; start both with the same options",
  ],
  [
    'another order of devices',
    hello('b', QEMU, '-cpu qemu64', '-device rtl8139', '-device e1000'),
    "'-device e1000' is at another place; give the options in the same order",
  ],
  [
    'an engine that tells nothing',
    hello('b'),
    "only this side has 'QEMU 7.2.22 (Debian)'; start both with the same options",
  ],
];
for (const [what, theirs, text] of cases) {
  it(what, () => {
    assert.equal(incompatibility(OURS, theirs), text);
  });
}

it('is told as before where neither side knows more', () => {
  assert.match(incompatibility(hello('a'), hello('b')) ?? '', /^the machines are built differently/);
});

it('travels in the hello, within bounds', () => {
  assert.deepEqual(parseHello(encodeHello(OURS).subarray(12).toString()), OURS);
  for (const parts of [Array.from({ length: 129 }, String), ['x'.repeat(513)], [7]]) {
    const text = JSON.stringify({ ...OURS, buildParts: parts });
    assert.throws(() => parseHello(text), { name: 'ProtocolError' });
  }
});
