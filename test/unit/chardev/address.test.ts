import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connectionName, formatAddress, normaliseHost } from '../../../src/chardev/address.ts';

test('one spelling for one host', () => {
  assert.equal(normaliseHost('::ffff:10.0.0.1'), '10.0.0.1');
  assert.equal(normaliseHost('::FFFF:10.0.0.1'), '10.0.0.1');
  assert.equal(normaliseHost('fe80::1%eth0'), 'fe80::1');
  assert.equal(normaliseHost('FE80::1'), 'fe80::1');
  assert.equal(normaliseHost('10.0.0.1'), '10.0.0.1');
});

test('names of connections, sender first', () => {
  const left = { host: '::ffff:10.0.0.1', port: 9003 };
  assert.equal(connectionName(left, { host: '10.0.0.2', port: 5 }), '10.0.0.1:9003>10.0.0.2:5');
  assert.equal(connectionName({ host: '::1', port: 1 }, { host: '::1', port: 2 }), '[::1]:1>[::1]:2');
  assert.equal(formatAddress({ type: 'inet', host: '::1', port: '7' }), '[::1]:7');
  assert.equal(formatAddress({ type: 'unix', path: '/x' }), '/x');
});
