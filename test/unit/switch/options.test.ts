import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ColoError, ParameterError } from '../../../src/base/errors.ts';
import { formatLinkAddress, parseLinkAddress } from '../../../src/switch/address.ts';
import { loadSlirp } from '../../../src/switch/libslirp.ts';
import { ipv4Text, parseHostForward, parseNatNetwork } from '../../../src/switch/nat-options.ts';

void test('link addresses', () => {
  const shown = (text: string): string => formatLinkAddress(parseLinkAddress(text, 'listen'));
  assert.equal(shown('unix:/run/colo:1.sock'), 'unix:/run/colo:1.sock');
  assert.equal(shown('tcp:0.0.0.0:7000'), 'tcp:0.0.0.0:7000');
  assert.equal(shown('tcp:7000'), 'tcp:127.0.0.1:7000');
  assert.equal(shown('tcp::0'), 'tcp:127.0.0.1:0');
  assert.equal(shown('tcp:[::1]:7000'), 'tcp:[::1]:7000');
  for (const bad of [
    '',
    'unix:',
    `unix:/${'x'.repeat(107)}`,
    'tcp:',
    'tcp:a:b',
    'tcp:::1:5',
    'tcp:h:65536',
    '/p',
  ]) {
    assert.throws(() => parseLinkAddress(bad, 'listen'), ParameterError, bad);
  }
});

void test("the NAT's network is laid out as QEMU's", () => {
  const network = parseNatNetwork('10.0.2.0/24');
  assert.deepEqual(
    [network.network, network.mask, network.gateway, network.dns, network.dhcpStart].map(ipv4Text),
    ['10.0.2.0', '255.255.255.0', '10.0.2.2', '10.0.2.3', '10.0.2.15'],
  );
  assert.equal(ipv4Text(parseNatNetwork('192.168.255.96/27').dhcpStart), '192.168.255.111');
  for (const bad of [
    '',
    '10.0.2.0',
    '10.0.2.0/7',
    '10.0.2.0/28',
    '10.0.2.0/24/1',
    '10.0.2/24',
    'x/24',
    '10.0.2.0/ 24',
  ]) {
    assert.throws(() => parseNatNetwork(bad), ParameterError, bad);
  }
  assert.throws(() => parseNatNetwork('10.0.2.7/24'), /did you mean 10\.0\.2\.0\/24/);
});

void test('host forwards, with loopback for an empty host address', () => {
  const network = parseNatNetwork('10.0.2.0/24');
  assert.deepEqual(parseHostForward('tcp:127.0.0.2:8080-10.0.2.15:80', network), {
    protocol: 'tcp',
    hostAddress: '127.0.0.2',
    hostPort: 8080,
    guestAddress: '10.0.2.15',
    guestPort: 80,
  });
  assert.deepEqual(parseHostForward('udp::0-:53', network), {
    protocol: 'udp',
    hostAddress: '127.0.0.1',
    hostPort: 0,
    guestAddress: null,
    guestPort: 53,
  });
  assert.equal(parseHostForward('::1-:1', network).protocol, 'tcp');
  for (const bad of [
    '',
    'tcp:8080-:80',
    'sctp::1-:1',
    'tcp::65536-:1',
    'tcp::1-:0',
    'tcp::1-:65536',
    'tcp:localhost:1-:1',
    'tcp::1-10.0.3.15:1',
    'tcp::1-10.0.2.256:1',
    'tcp::-1-:1',
  ]) {
    assert.throws(() => parseHostForward(bad, network), ParameterError, bad);
  }
});

void test('a libslirp that is not there is an error that says what to install', () => {
  assert.throws(
    () => loadSlirp('/nonexistent/libslirp.so.0'),
    (error) => error instanceof ColoError && /apt install libslirp0/.test(error.message),
  );
});

void test('a library that is not libslirp is refused', () => {
  assert.throws(() => loadSlirp('libm.so.6'), /not a usable libslirp/);
});
