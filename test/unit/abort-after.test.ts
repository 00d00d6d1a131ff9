/** A deadline that holds although nobody but the timer has hold of it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { abortAfter } from '../../src/base/async.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

test('a request that is never answered ends at its deadline, whatever the garbage collector does', async () => {
  const sockets: net.Socket[] = [];
  const deaf = net.createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
  await once(deaf, 'listening');
  const { port } = deaf.address() as net.AddressInfo;
  const closing = new AbortController();
  const { signal } = abortAfter(300, [closing.signal]);
  const request = http.request({ host: '127.0.0.1', port, method: 'POST', signal });
  request.end('x');
  const collecting = setInterval(collect, 20);
  const [error] = (await once(request, 'error')) as [Error];
  clearInterval(collecting);
  assert.equal(error.name, 'AbortError');
  for (const socket of sockets) socket.destroy();
  deaf.close();
});

test('it is aborted with each of its signals, and no more once it has ended', () => {
  const [one, other] = [new AbortController(), new AbortController()];
  const first = abortAfter(Infinity, [one.signal, other.signal]);
  const ended = abortAfter(Infinity, [other.signal]);
  ended.end();
  other.abort();
  assert.equal(first.signal.aborted, true);
  assert.equal(ended.signal.aborted, false);
  assert.equal(abortAfter(Infinity, [other.signal]).signal.aborted, true);
});
