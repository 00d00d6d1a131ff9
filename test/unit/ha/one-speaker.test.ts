/** The judge of captures (test/helpers/edge.ts), on made-up ones: nothing that two hosts say in turns gets past it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { assertOneSpeaker, oneSpeaker, type EdgeFrame } from '../../helpers/edge.ts';

const MAC = '52:54:00:00:00:01';
const said = (hosts: string, source = MAC): EdgeFrame[] =>
  hosts.split('').map((host, index) => ({ atMs: 1000 * index, host, source, what: 'other', note: 'TCP' }));

test('each host speaks once, one after the other', () => {
  const { turns, violations } = oneSpeaker(said('aaabbc'), MAC);
  assert.deepEqual(violations, []);
  assert.deepEqual(
    turns.map(({ host, fromMs, toMs, frames }) => [host, fromMs, toMs, frames]),
    [
      ['a', 0, 2000, 3],
      ['b', 3000, 4000, 2],
      ['c', 5000, 5000, 1],
    ],
  );
});

test('a host that speaks again is found, with time and what it said', () => {
  const { violations } = oneSpeaker(said('aabab'), MAC);
  assert.deepEqual(violations, [
    'a spoke at 00:00:03.000, 1000 ms after b: TCP; it had been replaced',
    'b spoke at 00:00:04.000, 1000 ms after a: TCP; it had been replaced',
  ]);
  assert.throws(() => assertOneSpeaker(oneSpeaker(said('aba'), MAC)), /it had been replaced/);
});

test('by the arbiter’s turns it may, and only in their order', () => {
  assert.deepEqual(oneSpeaker(said('aabbaa'), MAC, ['a', 'b', 'a']).violations, []);
  assert.deepEqual(oneSpeaker(said('aa'), MAC, ['a', 'b', 'a']).violations, []);
  assert.equal(oneSpeaker(said('aba'), MAC, ['a', 'b', 'c']).violations.length, 1);
  assert.equal(oneSpeaker(said('b'), MAC, ['a']).violations.length, 1);
});

test('others’ frames count for nobody, and announcements are counted', () => {
  const frames = [...said('ab', 'other'), ...said('a')];
  frames.push({ atMs: 9000, host: 'b', source: MAC, what: 'rarp', note: '' });
  frames.push({ atMs: 9001, host: 'b', source: MAC, what: 'gratuitous-arp', note: '' });
  const { turns } = oneSpeaker(frames, MAC);
  assert.deepEqual(
    turns.map(({ host, announcements }) => [host, announcements]),
    [
      ['a', 0],
      ['b', 2],
    ],
  );
});

test('without a violation no two hosts’ frames lie between each other', () => {
  const capture = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c'), fc.nat(50)), { maxLength: 12 });
  fc.assert(
    fc.property(capture, (list) => {
      const frames = list.map(([host, atMs]): EdgeFrame => ({
        host,
        atMs,
        source: MAC,
        what: 'other',
        note: '',
      }));
      const order = frames.toSorted((one, other) => one.atMs - other.atMs).map(({ host }) => host);
      const isSplit = ['a', 'b', 'c'].some((host) =>
        order.slice(order.indexOf(host), order.lastIndexOf(host) + 1).some((between) => between !== host),
      );
      assert.equal(oneSpeaker(frames, MAC).violations.length > 0, isSplit);
    }),
  );
});
