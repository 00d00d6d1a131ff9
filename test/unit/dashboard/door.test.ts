// Who may look at the dashboard: Host, Origin, token, and the user of a loopback connection.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import net from 'node:net';
import { test } from 'node:test';
import { Door, MAX_SUSPECTS, MAX_WRONG_TOKENS } from '../../../src/dashboard/door.ts';
import type { DoorOptions } from '../../../src/dashboard/door.ts';
import { uidOfPeer } from '../../../src/dashboard/peer-uid.ts';

const TOKEN = 'a-token.of_24~characters';
const OWN = 1000;

interface Asked {
  readonly host?: string | undefined;
  readonly origin?: string;
  readonly protocols?: string;
  readonly from?: string;
}

function request({ host = '127.0.0.1:8080', origin, protocols, from = '127.0.0.1' }: Asked): IncomingMessage {
  const headers = { host, origin, 'sec-websocket-protocol': protocols };
  return { headers, socket: { remoteAddress: from } } as unknown as IncomingMessage;
}

function door(options: Partial<DoorOptions> & { readonly uid?: number | null } = {}): Door {
  const { uid = OWN, ...others } = options;
  return new Door({
    ...{ host: '127.0.0.1', names: ['dash.example'], token: null, ownUid: OWN },
    ...{ uidOf: () => Promise.resolve(uid), ...others },
  });
}

async function code(at: Door, asked: Asked = {}): Promise<number | null> {
  return (await at.refusalOf(request(asked)))?.code ?? null;
}

const withToken = (token: string): Asked => ({ protocols: `colo-dashboard, token.${token}` });

test('Host has to be an address, localhost, or a name that was given', async () => {
  for (const host of ['127.0.0.1:8080', '[::1]:8080', 'localhost', 'DASH.example:1', '192.0.2.1']) {
    assert.equal(await code(door(), { host }), null, host);
  }
  for (const host of ['evil.example', 'evil.example:8080', '', 'dash.example.evil', 'localhost.evil:8080']) {
    assert.equal(await code(door(), { host }), 4403, host);
    assert.throws(() => door().checkHost(request({ host })), { name: 'ForbiddenError' }, host);
  }
});

test('Origin has to be what was asked, or be absent', async () => {
  const good: [string, string][] = [
    ['127.0.0.1:8080', 'http://127.0.0.1:8080'],
    ['127.0.0.1', 'http://127.0.0.1'],
    ['127.0.0.1:80', 'http://127.0.0.1'],
    ['dash.example', 'https://dash.example'],
    ['dash.example:443', 'https://dash.example'],
    ['[::1]:8080', 'http://[::1]:8080'],
    ['LOCALHOST:8080', 'http://localhost:8080'],
  ];
  for (const [host, origin] of good) assert.equal(await code(door(), { host, origin }), null, origin);
  const bad = [
    'http://127.0.0.1:8081',
    'http://localhost:8080',
    'http://evil.example',
    'null',
    '',
    'file://',
  ].concat(
    [
      'http://127.0.0.1:8080.evil.example',
      'http://127.0.0.1:8080@evil.example',
      'http://127.0.0.1:8080/',
      'http://[::1',
    ],
    ['http://127.0.0.1:8080 http://evil.example', 'chrome-extension://127.0.0.1:8080', 'http://'],
  );
  for (const origin of bad) {
    assert.equal(await code(door(), { origin }), 4403, origin);
    // The right token does not help a foreign page.
    assert.equal(await code(door({ token: TOKEN }), { origin, ...withToken(TOKEN) }), 4403, origin);
  }
});

test('loopback without a token: this user and root come in, others with the token that was made', async () => {
  assert.equal(await code(door()), null);
  assert.equal(await code(door({ uid: 0 })), null);
  for (const uid of [1001, null]) {
    const at = door({ uid });
    assert.equal(await code(at), 4401);
    assert.equal(await code(at, withToken('x'.repeat(32))), 4401);
    assert.equal(await code(at, withToken(at.token)), null);
  }
  assert.match(door().token, /^[A-Za-z0-9_-]{32}$/);
  assert.notEqual(door().token, door().token);
});

test('a token that was given is asked of everybody', async () => {
  const at = door({ token: TOKEN });
  assert.equal(await code(at), 4401);
  assert.equal(await code(door({ token: TOKEN, uid: 0 })), 4401);
  assert.equal(await code(at, withToken(TOKEN)), null);
  for (const wrong of [`${TOKEN}x`, TOKEN.slice(1), '', TOKEN.toUpperCase()]) {
    assert.equal(await code(at, withToken(wrong)), 4401, wrong);
  }
});

test('beyond loopback there has to be a token, and one that is not guessed', () => {
  for (const host of ['0.0.0.0', '::', '192.0.2.1', 'node1']) {
    assert.throws(() => door({ host }), {
      name: 'ParameterError',
      message: /give it a token, or have it listen on 127/,
    });
    assert.ok(door({ host, token: TOKEN }).isTokenRequired);
  }
  for (const token of ['', 'short', 'with blanks in it, long', 'x'.repeat(257), 'comma,separated,values']) {
    assert.throws(() => door({ token }), { name: 'ParameterError', message: /16 to 256/ });
  }
});

test('who sends wrong tokens waits, and nobody else does', async () => {
  let now = 0;
  const at = door({ host: '0.0.0.0', token: TOKEN, now: () => now });
  const from = (address: string, token: string): Asked => ({ ...withToken(token), from: address });
  for (let n = 0; n < MAX_WRONG_TOKENS; n++) {
    assert.equal(await code(at, from('192.0.2.7', 'wrong'.repeat(5))), 4401);
    // No token at all is no guess.
    assert.equal(await code(at, { from: '192.0.2.7' }), 4401);
  }
  assert.equal(await code(at, from('192.0.2.7', TOKEN)), 4403);
  assert.equal(await code(at, from('192.0.2.8', TOKEN)), null);
  now = 61_000;
  assert.equal(await code(at, from('192.0.2.7', TOKEN)), null);
  // An IPv6 host has many addresses.
  for (let n = 0; n < MAX_WRONG_TOKENS; n++) await code(at, from(`2001:db8:1:2::${n}`, 'wrong'.repeat(5)));
  assert.equal(await code(at, from('2001:db8:1:2:ffff::1', TOKEN)), 4403);
  assert.equal(await code(at, from('2001:db8:1:3::1', TOKEN)), null);
  // The list of them is bounded: the oldest is forgotten.
  for (let n = 0; n < MAX_SUSPECTS; n++) await code(at, from(`10.0.${n >> 8}.${n & 255}`, 'wrong'.repeat(5)));
  assert.equal(await code(at, from('2001:db8:1:2:ffff::1', TOKEN)), null);
});

test('the kernel tells the user of a loopback connection, IPv4 and IPv6', async (t) => {
  for (const [listen, host] of [
    ['127.0.0.1', '127.0.0.1'],
    ['::1', '::1'],
    ['::', '127.0.0.1'],
  ] as const) {
    const server = net.createServer();
    t.after(() => server.close());
    server.listen({ host: listen, port: 0 });
    await once(server, 'listening');
    const client = net.connect((server.address() as net.AddressInfo).port, host);
    const [accepted] = (await once(server, 'connection')) as [net.Socket];
    assert.equal(await uidOfPeer(accepted), process.getuid?.(), `${listen} ${host}`);
    // A socket that is being closed belongs to nobody, not to root.
    client.end();
    await once(accepted.resume(), 'end');
    assert.equal(await uidOfPeer(accepted), null);
    accepted.destroy();
  }
});
