import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseChardevBackend, parseChardevOptions } from '../../../src/chardev/options.ts';

const inet = { backend: 'socket', id: 'c', host: '127.0.0.1', port: '9003' };

test('the command line form: addresses, roles and QEMU defaults', () => {
  assert.deepEqual(parseChardevOptions({ ...inet, server: 'on' }), {
    backend: 'socket',
    id: 'c',
    address: { type: 'inet', host: '127.0.0.1', port: '9003' },
    server: true,
    wait: true,
    nodelay: true,
    reconnectMs: 0,
  });
  assert.deepEqual(
    parseChardevOptions({ backend: 'socket', id: 'u', path: '/run/x', server: 'on', wait: 'off' }),
    {
      backend: 'socket',
      id: 'u',
      address: { type: 'unix', path: '/run/x' },
      server: true,
      wait: false,
      nodelay: true,
      reconnectMs: 0,
    },
  );
  const client = parseChardevOptions({ ...inet, reconnect: '1' });
  assert.equal(client.backend === 'socket' && client.reconnectMs, 1000);
  const quick = parseChardevOptions({ ...inet, 'reconnect-ms': '250', nodelay: 'off' });
  assert.ok(quick.backend === 'socket' && quick.reconnectMs === 250 && !quick.nodelay && !quick.wait);
  // The flag `nodelay` reaches us as delay=off: QEMU's parser takes the "no" away.
  const flag = parseChardevOptions({ ...inet, delay: 'off' });
  assert.ok(flag.backend === 'socket' && flag.nodelay);
  assert.deepEqual(parseChardevOptions({ backend: 'stdio', id: 's', signal: 'off' }), {
    backend: 'stdio',
    id: 's',
    signal: false,
  });
});

const REFUSED: readonly [Record<string, string>, RegExp][] = [
  [{ backend: 'socket' }, /^chardev: no id specified$/],
  [{ ...inet, id: '1c' }, /^Parameter 'id' expects an identifier\n/],
  [{ id: 'c' }, /^chardev: "c" missing backend$/],
  [{ id: 'c', backend: 'nosuch' }, /^'nosuch' is not a valid char driver name$/],
  [{ id: 'c', backend: 'toString' }, /^'toString' is not a valid char driver name$/],
  [{ id: 'c', backend: 'pty' }, /^character device backend 'pty' is not supported; use /],
  [{ id: 'c', backend: 'socket', host: 'h' }, /^chardev: socket: no port given$/],
  [{ id: 'c', backend: 'socket' }, /^chardev: socket: no host or path given$/],
  [{ ...inet, path: '/x' }, /^None or one of 'path', 'fd' or 'host' option required\.$/],
  [{ ...inet, server: 'maybe' }, /^Parameter 'server' expects 'on' or 'off'$/],
  [{ ...inet, wait: 'on' }, /^'wait' option is incompatible with socket in client connect mode$/],
  [
    { ...inet, server: 'on', reconnect: '1' },
    /^'reconnect' option is incompatible with socket in server listen mode$/,
  ],
  [{ ...inet, reconnect: 'x' }, /^Parameter 'reconnect' expects a number$/],
  [{ ...inet, reconnect: '9999999' }, /expects at most/],
  [{ ...inet, reconnect: '1', 'reconnect-ms': '1000' }, /^Only one of/],
  [{ ...inet, foo: 'bar' }, /^Invalid parameter 'foo'$/],
  [{ ...inet, telnet: 'on' }, /^'telnet' is not supported/],
  [{ ...inet, 'tls-creds': 't', 'tls-authz': 'a' }, /^tls-authz is not supported/],
  [
    { id: 'c', backend: 'socket', path: '/s', 'tls-creds': 't' },
    /^'tls_creds' option is incompatible with 'unix' address type$/,
  ],
  [{ ...inet, 'tls-authz': 't' }, /^'tls_authz' option requires 'tls_creds' option$/],
  [{ id: 'n', backend: 'null', foo: '1' }, /^Invalid parameter 'foo'$/],
];

test('the command line form refuses, in the words of QEMU where it has some', () => {
  for (const [options, text] of REFUSED) {
    assert.throws(() => parseChardevOptions(options), { message: text }, JSON.stringify(options));
  }
});

const addr = { type: 'inet', data: { host: '127.0.0.1', port: '9003' } };
const socket = (data: object): unknown => ({ type: 'socket', data });

test('the QMP form: both shapes of addresses, other defaults than the command line', () => {
  const expected = {
    backend: 'socket',
    id: 'c',
    address: { type: 'inet', host: '127.0.0.1', port: '9003' },
    server: true,
    wait: false,
    nodelay: true,
    reconnectMs: 0,
  };
  assert.deepEqual(parseChardevBackend('c', socket({ addr })), expected);
  assert.deepEqual(
    parseChardevBackend('c', socket({ addr: { type: 'inet', host: '127.0.0.1', port: '9003' } })),
    expected,
  );
  const client = parseChardevBackend(
    'c',
    socket({ addr: { type: 'unix', data: { path: '/x' } }, server: false, reconnect: 2 }),
  );
  assert.ok(client.backend === 'socket' && client.address.type === 'unix' && client.reconnectMs === 2000);
  assert.deepEqual(parseChardevBackend('1', { type: 'null', data: {} }), { backend: 'null', id: '1' });
});

const REFUSED_BACKENDS: readonly [unknown, string][] = [
  [undefined, "Parameter 'backend' is missing"],
  [1, "Invalid parameter type for 'backend', expected: object"],
  [{ data: {} }, "Parameter 'backend.type' is missing"],
  [{ type: 'nosuch', data: {} }, "Parameter 'type' does not accept value 'nosuch'"],
  [{ type: 'null' }, "Parameter 'backend.data' is missing"],
  [socket({}), "Parameter 'backend.data.addr' is missing"],
  [socket({ addr: { data: {} } }), "Parameter 'backend.data.addr.type' is missing"],
  [socket({ addr: { type: 'foo', data: {} } }), "Parameter 'type' does not accept value 'foo'"],
  [socket({ addr: { type: 'inet' } }), "Parameter 'backend.data.addr.data' is missing"],
  [
    socket({ addr: { type: 'inet', data: { host: 'x' } } }),
    "Parameter 'backend.data.addr.data.port' is missing",
  ],
  [
    socket({ addr: { type: 'inet', data: { host: 'x', port: 1 } } }),
    "Invalid parameter type for 'backend.data.addr.data.port', expected: string",
  ],
  [
    socket({ addr: { type: 'inet', data: { host: 'x', port: '1', foo: 1 } } }),
    "Parameter 'backend.data.addr.data.foo' is unexpected",
  ],
  [socket({ addr, foo: 1 }), "Parameter 'backend.data.foo' is unexpected"],
  [socket({ addr, wait: 'x' }), "Invalid parameter type for 'backend.data.wait', expected: boolean"],
  [
    socket({ addr, server: false, wait: true }),
    "'wait' option is incompatible with socket in client connect mode",
  ],
  [socket({ addr, reconnect: 1 }), "'reconnect' option is incompatible with socket in server listen mode"],
];

test('the QMP form refuses with the texts of the input visitor', () => {
  for (const [backend, message] of REFUSED_BACKENDS) {
    assert.throws(() => parseChardevBackend('e', backend), { message }, JSON.stringify(backend));
  }
});
