// The dashboard's server: its files, who is let in, what pages say that nobody should, consoles, actions.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { ColoError } from '../../../src/base/errors.ts';
import { parseClientMessage } from '../../../src/dashboard/messages.ts';
import { DashboardServer, MAX_TYPED_BYTES, MAX_WISH_BYTES } from '../../../src/dashboard/server.ts';
import { MAX_MESSAGES_A_SECOND } from '../../../src/dashboard/watcher.ts';
import { FalsePage } from '../../helpers/dashboard-page.ts';
import type { PageOptions } from '../../helpers/dashboard-page.ts';
import { FalseSource } from '../../helpers/dashboard-source.ts';

const TOKEN = 'the-token-of-this-test';
const SCRIPT = 'console.log("a script that is worth packing");\n'.repeat(100);

let folder: string;
let source: FalseSource;
let server: DashboardServer;

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-dashboard-'));
  await writeFile(path.join(folder, 'index.html'), '<!doctype html><title>COLO</title>');
  await writeFile(path.join(folder, 'app.js'), SCRIPT);
  await writeFile(path.join(folder, 'secret.pem'), 'not for the world');
  source = new FalseSource();
  server = await DashboardServer.listen({ host: '127.0.0.1', port: 0, token: TOKEN, files: folder }, source);
});

after(async () => {
  await server.close();
  source.stop();
  await rm(folder, { recursive: true });
});

interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

function get(name: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.request(
      server.url.replace(/\/$/, name),
      { headers, method, agent: false },
      (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('end', () =>
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: Buffer.concat(chunks) }),
        );
      },
    );
    request.on('error', reject);
    request.end();
  });
}

const page = (options: PageOptions = {}): Promise<FalsePage> =>
  new FalsePage(server.url, { token: TOKEN, ...options }).opened();

describe('its files', () => {
  it('are served packed, with what keeps other pages and scripts out, and not again when they are the same', async () => {
    const plain = await get('/app.js');
    assert.deepEqual([plain.status, plain.body.toString()], [200, SCRIPT]);
    const packed = await get('/app.js?v=1', { 'accept-encoding': 'gzip, br' });
    assert.equal(packed.headers['content-encoding'], 'gzip');
    assert.equal(gunzipSync(packed.body).toString(), SCRIPT);
    assert.ok(packed.body.length < SCRIPT.length / 10);
    assert.equal(
      (await get('/app.js', { 'accept-encoding': 'gzip;q=0' })).headers['content-encoding'],
      undefined,
    );
    for (const answer of [plain, await get('/'), await get('/nothing'), await get('/healthz')]) {
      const policy = String(answer.headers['content-security-policy']);
      assert.match(
        policy,
        /default-src 'none'; script-src 'self';.*connect-src 'self';.*frame-ancestors 'none'/,
      );
      assert.doesNotMatch(policy.replace(/style-src [^;]*/, ''), /unsafe|\*|http/);
      assert.equal(answer.headers['x-content-type-options'], 'nosniff');
      assert.equal(answer.headers['referrer-policy'], 'no-referrer');
    }
    const again = await get('/app.js', { 'if-none-match': String(plain.headers.etag) });
    assert.deepEqual([again.status, again.body.length], [304, 0]);
    const head = await get('/app.js', {}, 'HEAD');
    assert.deepEqual([head.status, head.body.length], [200, 0]);
  });

  it('are those alone: no other path, no other kind, no other method, no other host', async () => {
    for (const name of [
      '/secret.pem',
      '/../package.json',
      '/%2e%2e/package.json',
      '/app.js/',
      '//app.js',
      '/v1/live',
    ]) {
      assert.equal((await get(name)).status, 404, name);
    }
    assert.equal((await get('/app.js', {}, 'POST')).status, 405);
    assert.equal((await get('/', { host: 'evil.example' })).status, 403);
    assert.equal((await get('/healthz', { host: 'evil.example' })).status, 403);
    assert.deepEqual((await get('/healthz')).body.toString(), 'ok\n');
  });

  it('which are not built: it says how to', async () => {
    const empty = await DashboardServer.listen(
      { host: '127.0.0.1', port: 0, files: path.join(folder, 'none') },
      source,
    );
    const answer = await fetch(empty.url);
    assert.equal(answer.status, 503);
    assert.match(await answer.text(), /npm run build/);
    await empty.close();
  });
});

describe('a page', () => {
  it('is told what it is, the events, the cluster, and of the VM that it watches', async () => {
    const one = await page({ headers: { origin: server.url.replace(/\/$/, '') } });
    // The token is not said back.
    assert.equal(one.socket.protocol, 'colo-dashboard');
    assert.deepEqual(await one.until('hello'), {
      ...{ type: 'hello', version: 1, kind: 'demo', software: '0.1.0', host: null, mayAct: true },
    });
    assert.deepEqual(one.messages[0]?.type, 'hello');
    assert.equal((await one.until('cluster')).vms[0]?.name, 'web');
    assert.equal((await one.until('events')).events[0]?.sequence, 1);
    one.say({ type: 'watch', vm: 'web' });
    const { isAll, samples } = await one.until('checkpoints');
    assert.deepEqual([isAll, samples.length], [true, 40]);
    source.traffic(5);
    assert.ok((await one.until('pair', ({ pair }) => pair.mirror !== null)).pair.held);
    source.checkpoint('mismatch');
    const next = await one.until('checkpoints', (message) => !message.isAll);
    assert.deepEqual(
      next.samples.map(({ sequence, cause }) => [sequence, cause]),
      [[41, 'mismatch']],
    );
    await one.close();
  });

  it('is refused with a code that it can see, and told nothing', async () => {
    const refused: [PageOptions, number, RegExp][] = [
      [{ token: 'not-the-token-of-it' }, 4401, /wrong/],
      [{ headers: { origin: 'http://evil.example' } }, 4403, /Origin/],
      [{ headers: { origin: 'null' } }, 4403, /Origin/],
      [{ headers: { host: 'evil.example' } }, 4403, /evil\.example/],
    ];
    for (const where of ['v1/live', 'v1/console?vm=web&copy=primary', 'v1/screen?vm=web&copy=primary']) {
      for (const [options, code, reason] of refused) {
        const one = await page({ ...options, path: where });
        const closed = await one.closed;
        assert.equal(closed.code, code);
        assert.match(closed.reason, reason);
        assert.deepEqual([one.messages, one.bytes], [[], '']);
      }
    }
    const without = new FalsePage(server.url);
    assert.equal((await without.closed).code, 4401);
  });

  it('that says nonsense is sent away, and nobody else is', async () => {
    const other = await page();
    const nonsense = [
      ...['', '{', 'null', '[]', '{}', '{"type":"watch"}', '{"type":"watch","vm":"../x"}', '{"type":"quit"}'],
      ...['{"type":"watch","vm":"web","more":1}', '{"type":"act","id":1,"vm":"web","action":"format"}'],
      ...[
        '{"type":"act","id":-1,"vm":"web","action":"pause"}',
        '{"type":"act","id":1,"vm":"web","action":"migrate"}',
      ],
      '{"type":"act","id":1,"vm":"web","action":"pause","host":"beta"}',
    ];
    for (const text of nonsense)
      assert.throws(() => parseClientMessage(text), { name: 'ParameterError' }, text);
    for (const text of ['{', '{"type":"act","id":1,"vm":"web","action":"format"}']) {
      const one = await page();
      one.say(text);
      assert.equal((await one.closed).code, 1008, text);
    }
    const binary = await page();
    binary.socket.send(Buffer.from('{"type":"watch","vm":null}'));
    assert.equal((await binary.closed).code, 1008);
    const huge = await page();
    huge.say(JSON.stringify({ type: 'watch', vm: 'x'.repeat(MAX_WISH_BYTES) }));
    assert.equal((await huge.closed).code, 1009);
    const busy = await page();
    for (let n = 0; n < 20 * MAX_MESSAGES_A_SECOND; n++) busy.say({ type: 'watch', vm: null });
    assert.deepEqual(await busy.closed, { code: 1008, reason: 'too many messages' });
    other.say({ type: 'act', id: 3, vm: 'web', action: 'checkpoint' });
    assert.equal((await other.until('answer')).text, 'checkpoint: done');
    await other.close();
  });
});

describe('an action', () => {
  it('is answered once, with what went wrong if something did', async () => {
    const one = await page();
    one.say({ type: 'act', id: 1, vm: 'web', action: 'checkpoint' });
    one.say({ type: 'act', id: 2, vm: 'nobody', action: 'failover' });
    one.say({ type: 'act', id: 3, vm: 'web', action: 'migrate', host: 'beta' });
    await one.until('answer', ({ id }) => id === 3);
    assert.deepEqual(
      one.all('answer').toSorted((a, b) => a.id - b.id),
      [
        { type: 'answer', id: 1, error: null, text: 'checkpoint: done' },
        { type: 'answer', id: 2, error: "there is no VM 'nobody'", text: '' },
        { type: 'answer', id: 3, error: 'migrate: not in this play', text: '' },
      ],
    );
    assert.deepEqual(source.acted.at(-1), { vm: 'web', action: 'migrate', host: 'beta' });
    await one.close();
  });

  it('goes on when its page has left', async () => {
    const acted = source.acted.length;
    let open = (): void => undefined;
    source.actGate = new Promise((resolve) => (open = resolve));
    const one = await page();
    const two = await page();
    one.say({ type: 'act', id: 1, vm: 'web', action: 'kill-secondary' });
    while (source.acted.length === acted) await new Promise((resolve) => setImmediate(resolve));
    await one.close();
    open();
    const { vms } = await two.until('cluster', ({ vms }) => vms[0]?.state === 'unprotected');
    assert.equal(vms[0]?.secondary, null);
    source.actGate = Promise.resolve();
    source.protect();
    await two.close();
  });

  it('is not to be had where everybody only watches', async () => {
    const watching = await DashboardServer.listen(
      { host: '127.0.0.1', port: 0, mayAct: false, files: folder },
      source,
    );
    const acted = source.acted.length;
    const one = await new FalsePage(watching.url).opened();
    assert.equal((await one.until('hello')).mayAct, false);
    one.say({ type: 'act', id: 1, vm: 'web', action: 'checkpoint' });
    assert.match((await one.until('answer')).error ?? '', /watching only/);
    assert.equal(source.acted.length, acted);
    const screen = new FalsePage(watching.url, { path: 'v1/screen?vm=web&copy=primary' });
    assert.equal((await screen.closed).code, 1011);
    await watching.close();
  });
});

describe('a console', () => {
  const console = (copy: string, vm = 'web'): Promise<FalsePage> =>
    page({ path: `v1/console?vm=${vm}&copy=${copy}` });

  it('of the primary echoes, of the secondary only shows', async () => {
    const [primary, secondary] = [await console('primary'), await console('secondary')];
    for (const one of [primary, secondary]) {
      await one.untilBytes((bytes) => bytes.endsWith('login: '));
      one.socket.send(Buffer.from('root\r'));
    }
    await primary.untilBytes((bytes) => bytes.endsWith('root\r\n'));
    await primary.close();
    // What was typed before a close has been read by then.
    await secondary.close();
    assert.deepEqual(source.typed, { primary: 'root\r', secondary: '' });
    while (source.open.size > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  it('ends with what it shows, and says why there is none', async () => {
    const one = await console('primary');
    await one.untilBytes((bytes) => bytes !== '');
    for (const port of source.open) port.push(null);
    assert.equal((await one.closed).code, 1000);
    const failing = await console('primary');
    await failing.untilBytes((bytes) => bytes !== '');
    for (const port of source.open) port.destroy(new ColoError('the guest has gone'));
    assert.deepEqual(await failing.closed, { code: 1011, reason: 'the guest has gone' });
    assert.deepEqual(await (await console('primary', 'nobody')).closed, {
      code: 1011,
      reason: "there is no VM 'nobody'",
    });
    for (const wrong of ['third', '', 'primary&more=1'])
      assert.equal((await (await console(wrong)).closed).code, 1011);
    assert.equal((await (await console('primary', '..%2fx')).closed).code, 1011);
  });

  it('takes no message beyond its bound', async () => {
    const one = await console('primary');
    one.socket.send(Buffer.alloc(MAX_TYPED_BYTES + 1));
    assert.equal((await one.closed).code, 1009);
  });

  it('is one of two kinds: a screen begins with its server’s words', async () => {
    const screen = await page({ path: 'v1/screen?vm=web&copy=secondary' });
    await screen.untilBytes((bytes) => bytes === 'RFB 003.008\n');
    screen.socket.send(Buffer.from('RFB 003.008\n'));
    while (!source.typed.secondary.includes('RFB')) await new Promise((resolve) => setImmediate(resolve));
    await screen.close();
  });
});
