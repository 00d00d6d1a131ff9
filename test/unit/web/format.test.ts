/** The page's numbers, times, tokens and waits. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FIRST_WAIT_MS, LONGEST_WAIT_MS, waitMs } from '../../../web/model/back-off.ts';
import {
  bytes,
  bytesPerSec,
  count,
  duration,
  memory,
  micros,
  millis,
  percent,
  perSec,
  plural,
  short,
} from '../../../web/model/format.ts';
import { isToken, subprotocols, tokenOf } from '../../../web/model/token.ts';

test('numbers have three digits at most, and their units', () => {
  const table: readonly (readonly [string, string])[] = [
    [bytes(0), '0 B'],
    [bytes(999), '999 B'],
    [bytes(1000), '1 kB'],
    [bytes(1536), '1.5 kB'],
    [bytes(999_700), '1.00 MB'],
    [bytes(12_345_678), '12 MB'],
    [bytes(3.2e15), '3200 TB'],
    [bytesPerSec(204_800), '205 kB/s'],
    [perSec(0.5), '0.50/s'],
    [perSec(120), '120/s'],
    [short(9.96), '10.0'],
    [count(1_204_000), '1\u2009204\u2009000'],
    [count(999), '999'],
    [millis(0), '0 ms'],
    [millis(0.25), '250 µs'],
    [millis(9.14), '9.1 ms'],
    [millis(1500), '1.5 s'],
    [millis(65_000), '1 min 5 s'],
    [micros(12_400), '12 ms'],
    [duration(-5), '0 s'],
    [duration(59_400), '59 s'],
    [duration(120_000), '2 min'],
    [duration(11_400_000), '3 h 10 min'],
    [duration(190_000_000), '2 d 4 h'],
    [percent(0.999), '99 %'],
    [percent(7), '100 %'],
    [memory(512), '512 MiB'],
    [memory(1536), '1.5 GiB'],
    [plural(1, 'packet'), '1 packet'],
    [plural(0, 'packet'), '0 packets'],
  ];
  for (const [said, wanted] of table) assert.equal(said, wanted);
});

test('no number is too large, too small or too negative for a text', () => {
  fc.assert(
    fc.property(fc.double({ noNaN: true, min: -1e18, max: 1e18 }), (value) => {
      for (const text of [bytes(value), millis(value), duration(value), short(value), count(value)]) {
        assert.ok(text.length > 0 && text.length < 40, text);
        assert.ok(!text.includes('NaN') && !text.includes('undefined'), text);
      }
    }),
  );
});

test('waits double up to a bound, and are random by a quarter', () => {
  for (let failures = 0; failures < 40; failures++) {
    const most = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures);
    assert.equal(
      waitMs(failures, () => 0),
      most,
    );
    assert.equal(
      waitMs(failures, () => 1),
      Math.round(most * 0.75),
    );
  }
});

test('the token comes from the fragment, and goes as a subprotocol', () => {
  assert.equal(tokenOf('#token=abc-_1'), 'abc-_1');
  assert.equal(tokenOf('#x=1&token=abc'), 'abc');
  for (const none of ['', '#', '#token=', '#tokens=abc']) assert.equal(tokenOf(none), null);
  assert.deepEqual(subprotocols('abc'), ['colo-dashboard', 'token.abc']);
  assert.deepEqual(subprotocols(null), ['colo-dashboard']);
  assert.ok(isToken('aZ09-_.~'));
  for (const bad of ['', 'a b', 'ä', 'a,b', 'a"b', 'x'.repeat(513)]) assert.ok(!isToken(bad), bad);
});
