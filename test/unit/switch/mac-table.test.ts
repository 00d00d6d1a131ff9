import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isBogusSource, formatMac, macAt } from '../../../src/switch/ethernet.ts';
import { MAX_MACS_PER_PORT, MacTable } from '../../../src/switch/mac-table.ts';
import { frame, mac } from './frames.ts';

void test('addresses are read from a frame without loss in any octet', () => {
  const bytes = frame(0xfeff_8081_7f01, 0x0180_c2ff_fffe);
  assert.equal(macAt(bytes, 0), 0x0180_c2ff_fffe);
  assert.equal(macAt(bytes, 6), 0xfeff_8081_7f01);
  assert.equal(formatMac(0x0180_c2ff_fffe), '01:80:c2:ff:ff:fe');
});

void test('a group address and zero are no sources', () => {
  assert.ok(isBogusSource(frame(0, 1)));
  assert.ok(isBogusSource(frame(0xffff_ffff_ffff, 1)));
  assert.ok(isBogusSource(frame(0x0100_5e00_0001, 1)));
  assert.ok(!isBogusSource(frame(1, 1)));
});

void test('an address is learned once, moves at once, and goes with its port', () => {
  const table = new MacTable<string>(10);
  assert.equal(table.learn(mac(1), 'a'), 'new');
  assert.equal(table.learn(mac(1), 'a'), 'known');
  assert.equal(table.learn(mac(1), 'b'), 'moved');
  assert.equal(table.lookup(mac(1)), 'b');
  assert.deepEqual(table.forgetPort('a'), []);
  assert.deepEqual(table.forgetPort('b'), [mac(1)]);
  assert.equal(table.lookup(mac(1)), undefined);
});

void test('a silent address is forgotten after its sweeps, one that speaks is not', () => {
  const table = new MacTable<string>(3);
  table.learn(mac(1), 'a');
  table.learn(mac(2), 'a');
  table.sweep();
  table.sweep();
  table.learn(mac(2), 'a');
  table.sweep();
  assert.equal(table.lookup(mac(1)), undefined);
  assert.equal(table.lookup(mac(2)), 'a');
  assert.deepEqual(table.forgetPort('a'), [mac(2)]);
});

void test('a port that invents addresses pushes out its own only', () => {
  const table = new MacTable<string>(10);
  table.learn(mac(1), 'honest');
  for (let i = 0; i < MAX_MACS_PER_PORT * 2; i++) table.learn(mac(1000 + i), 'liar');
  assert.equal(table.size, MAX_MACS_PER_PORT + 1);
  assert.equal(table.lookup(mac(1)), 'honest');
  assert.equal(table.lookup(mac(1000)), undefined);
  assert.equal(table.lookup(mac(1000 + 2 * MAX_MACS_PER_PORT - 1)), 'liar');
});
