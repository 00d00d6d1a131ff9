/** The daemon as what the dashboard shows: actions that make sense, both copies' consoles, and where the page is. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { WebSocket } from 'ws';
import { ColoError, ParameterError } from '../../../src/base/errors.ts';
import type { Action } from '../../../src/dashboard/protocol.ts';
import type { VmView } from '../../../src/ha/views.ts';
import { serveDashboard } from '../../../src/node/dashboard.ts';
import { NodeSource, pictureOf } from '../../../src/node/dashboard-source.ts';
import type { Daemon } from '../../../src/node/daemon.ts';
import { NodeServices } from '../../../src/node/node-service.ts';
import { falseNode, HOST, VM } from '../../helpers/false-node.ts';
import { World } from '../../helpers/node-world.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-board-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const signal = new AbortController().signal;
const HOSTS = [HOST, { ...HOST, name: 'beta' }];

const ALPHA = { software: 's', host: 'alpha', eventHosts: () => Promise.resolve([]) };

describe('a VM on the page', () => {
  const actions = (change: Partial<VmView>, hosts = HOSTS): readonly Action[] =>
    pictureOf({ ...VM, ...change }, hosts).actions;

  it('is offered what makes sense as it is', () => {
    assert.deepEqual(actions({ state: 'protected' }), ['checkpoint', 'failover', 'migrate', 'pause']);
    assert.deepEqual(actions({ state: 'protected', isPaused: true }), [
      'checkpoint',
      'failover',
      'migrate',
      'resume',
    ]);
    assert.deepEqual(actions({ state: 'protected' }, [HOST]), ['checkpoint', 'failover', 'pause']);
    assert.deepEqual(actions({ state: 'unprotected', secondary: null }), ['migrate', 'pause']);
    assert.deepEqual(actions({ state: 'syncing', secondary: null }), ['pause']);
    assert.deepEqual(actions({ state: 'down', primary: null, secondary: null, isWanted: false }), []);
  });

  it('has consoles where copies run, and screens where there is a VNC server', () => {
    const none = { serial: false, vnc: false };
    const { screens } = pictureOf({ ...VM, state: 'protected', display: 'vnc' }, HOSTS);
    assert.deepEqual(screens, {
      primary: { serial: true, vnc: true },
      secondary: { serial: true, vnc: true },
    });
    const alone = pictureOf({ ...VM, state: 'unprotected', secondary: null, display: 'none' }, HOSTS);
    assert.deepEqual(alone.screens, { primary: { serial: true, vnc: false }, secondary: none });
    const down = pictureOf({ ...VM, state: 'down', primary: null, secondary: null }, HOSTS);
    assert.deepEqual(down.screens, { primary: none, secondary: none });
  });

  it('is acted on through the service, and nothing is harmed', async () => {
    const node = falseNode();
    const source = new NodeSource(node, ALPHA);
    assert.equal(await source.act('web1', 'checkpoint', { signal }), 'web1: a checkpoint has been taken');
    assert.equal(await source.act('web1', 'failover', { signal }), 'web1: runs on alpha, syncing');
    await source.act('web1', 'migrate', { host: 'beta', signal });
    await source.act('web1', 'pause', { signal });
    await source.act('web1', 'resume', { signal });
    await assert.rejects(source.act('web1', 'migrate', { signal }), ParameterError);
    await assert.rejects(source.act('web1', 'kill-primary', { signal }), ParameterError);
    assert.deepEqual(node.asked, [
      ['checkpoint', 'web1'],
      ['failover', 'web1'],
      ['migrate', 'web1', 'beta'],
      ['setPaused', 'web1', true],
      ['setPaused', 'web1', false],
    ]);
  });

  it('has a primary to be asked, or says why not', async () => {
    const node = falseNode();
    const ask = await new NodeSource(node, ALPHA).primary('web1');
    assert.deepEqual(await ask('query-status'), { status: 'running' });
    assert.deepEqual(node.asked.at(-1), ['qmp', 'web1', 'query-status']);
    const down = falseNode({
      vm: () => Promise.resolve({ ...VM, primary: null, state: 'down', reason: 'not wanted' }),
    });
    const source = new NodeSource(down, ALPHA);
    await assert.rejects(source.primary('web1'), { message: "'web1' is down: not wanted" });
  });
});

describe('either copy', () => {
  let world: World;
  const servers: net.Server[] = [];
  /** What was typed at each host's copy. */
  const typed = { a: '', b: '' };

  before(async () => {
    world = await World.start('a', 'b');
    await world.untilProtected('a');
    for (const name of ['a', 'b'] as const) {
      const vm = world.host(name).vm!;
      vm.consolePath = path.join(folder, `${name}-console.sock`);
      const server = net.createServer((client) => {
        client.write(`guest on ${name}\n`);
        client.on('data', (bytes) => {
          typed[name] += bytes.toString();
          client.write('?');
        });
        client.on('error', () => undefined);
      });
      servers.push(server);
      await once(server.listen(vm.consolePath), 'listening');
    }
  });

  after(() => {
    for (const server of servers) server.close();
    world.stop();
  });

  /** As far as consoles need a daemon; `heard`: whose heartbeats arrive, `alive`: whose registration has not run out. */
  function services(
    name: string,
    {
      heard = ['a', 'b'],
      alive = ['a', 'b'],
      view = { primary: 'a', secondary: 'b' },
    }: { heard?: string[]; alive?: string[]; view?: Partial<VmView> } = {},
  ): NodeServices {
    const host = world.host(name);
    const hostView = (one: string) => ({
      ...HOST,
      name: one,
      api: `at ${one}`,
      isAlive: alive.includes(one),
    });
    const daemon = {
      config: { name },
      controller: (vm: string) => (vm === 'web' ? host.controller : null),
      registry: {
        entry: (vm: string) => Promise.resolve(vm === 'web' ? { value: world.entry(), version: 1 } : null),
        view: () => Promise.resolve({ ...VM, name: 'web', ...view }),
        host: (one: string) => Promise.resolve(hostView(one)),
        hosts: () => Promise.resolve(['a', 'b'].map(hostView)),
      },
      addressOfHeard: (one: string) => (heard.includes(one) ? `at ${one}` : null),
    };
    return new NodeServices(daemon as unknown as Daemon);
  }

  it('is not said to be there when nobody is heard who could say so', async () => {
    assert.equal((await services('b').vm('web')).state, VM.state);
    const lost = await services('b', { alive: ['b'] }).vm('web');
    assert.equal(lost.state, 'dissolving');
    assert.equal(lost.reason, 'a was the last to speak for it and is not heard of any more');
    const copies = [{ host: 'a', role: 'starting' as const, pid: null }];
    const view = { state: 'starting' as const, primary: null, secondary: null, copies };
    assert.equal((await services('b', { view }).vm('web')).state, 'starting');
    assert.deepEqual(
      (({ state, reason }) => [state, reason])(await services('b', { view, alive: ['b'] }).vm('web')),
      ['dissolving', lost.reason],
    );
  });

  async function heard(stream: Duplex, what: RegExp): Promise<void> {
    let text = '';
    for await (const bytes of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      text += bytes.toString();
      if (what.test(text)) return;
    }
    assert.fail(`'${text}' is not ${what.source}`);
  }

  it('is found on its host, from any', async () => {
    const at = (name: string, copy?: 'primary' | 'secondary'): Promise<string | null> =>
      services(name).locate('web', copy);
    assert.deepEqual(
      [await at('a'), await at('a', 'primary'), await at('a', 'secondary')],
      [null, null, 'at b'],
    );
    assert.deepEqual(
      [await at('b'), await at('b', 'primary'), await at('b', 'secondary')],
      ['at a', 'at a', null],
    );
  });

  it('is found by its heartbeats while its registration is not renewed, and the other way round', async () => {
    assert.equal(await services('b', { alive: [] }).locate('web'), 'at a');
    assert.equal(await services('b', { heard: [] }).locate('web'), 'at a');
    const alone = services('b', { heard: [], alive: [] });
    assert.equal(await alone.locate('web'), null);
    for (const call of [() => alone.failover('web'), () => alone.checkpoint('web')])
      await assert.rejects(call, /'web' follows a on b, and a is not heard of: wait for the failover/);
  });

  it("is heard; keys reach the primary alone, until the secondary's guest is the one that is heard", async () => {
    const first = await services('a').console('web', 'primary');
    first.write('one');
    await heard(first, /guest on a\n\?/);
    const second = await services('b').console('web', 'secondary');
    await heard(second, /guest on b/);
    await new Promise<void>((resolve) => second.write('two', () => resolve()));
    // The same stream, once its guest has taken over.
    const gone = once(first.resume(), 'close');
    await world.host('a').losePower();
    await world.until('b goes on', () => world.host('b').controller.copy === 'primary');
    second.write('three');
    await heard(second, /\?/);
    assert.deepEqual(typed, { a: 'one', b: 'three' });
    second.destroy();
    first.destroy();
    await gone;
  });

  it('that is not there is told as that', async () => {
    await assert.rejects(services('b').console('web', 'secondary'), /'web' has no secondary at the moment/);
    await assert.rejects(services('b').console('none'), { name: 'NoSuchVmError' });
    await assert.rejects(
      services('b').screen('web'),
      (error) => error instanceof ColoError && error.message.includes('has no screen (display: none)'),
    );
  });
});

describe('the page', () => {
  const source = new NodeSource(falseNode(), ALPHA);
  const config = (dashboard: object): Parameters<typeof serveDashboard>[0] => ({
    name: 'alpha',
    address: '192.0.2.1',
    runFolder: folder,
    dashboard: { address: '127.0.0.1', port: 0, names: [], ...dashboard },
  });

  it('is served with a token that outlives the daemon, in a file of its owner', async () => {
    const first = await serveDashboard(config({}), source, undefined);
    const { url, tokenFile } = first!.place;
    const token = await readFile(tokenFile!, 'utf8');
    assert.equal((await stat(tokenFile!)).mode & 0o777, 0o600);
    const socket = new WebSocket(`${url!.replace('http', 'ws')}v1/live`, [
      'colo-dashboard',
      `token.${token.trim()}`,
    ]);
    const [hello] = (await once(socket, 'message')) as [Buffer];
    assert.deepEqual(JSON.parse(hello.toString()), {
      ...{ type: 'hello', version: 1, kind: 'node', software: 's', host: 'alpha', mayAct: true },
    });
    const closed = once(socket, 'close');
    await first!.close();
    await closed;
    const second = await serveDashboard(config({}), source, undefined);
    assert.equal(await readFile(tokenFile!, 'utf8'), token);
    await second!.close();
  });

  it('has an address for browsers', async () => {
    const file = path.join(folder, 'token');
    await writeFile(file, '0123456789abcdef\n');
    const every = await serveDashboard(config({ address: '0.0.0.0', tokenFile: file }), source, undefined);
    assert.match(every!.place.url!, /^http:\/\/192\.0\.2\.1:\d+\/$/);
    assert.equal(every!.place.tokenFile, file);
    await every!.close();
    const named = await serveDashboard(config({ names: ['a.example.org'] }), source, undefined);
    assert.match(named!.place.url!, /^http:\/\/a\.example\.org:\d+\/$/);
    await named!.close();
    assert.equal(await serveDashboard({ ...config({}), dashboard: null }, source, undefined), null);
  });

  it('that cannot be served is no reason to end', async () => {
    const other = net.createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as net.AddressInfo;
    const taken = await serveDashboard(config({ port }), source, undefined);
    assert.match(taken!.place.reason!, /EADDRINUSE.*see the key dashboard of node\.yaml$/);
    assert.equal(taken!.place.url, null);
    await taken!.close();
    other.close();
    const bare = await serveDashboard(config({ tokenFile: `${folder}/none` }), source, undefined);
    assert.match(bare!.place.reason!, /^dashboard\.token-file: ENOENT/);
    await writeFile(`${folder}/short`, 'x');
    const weak = await serveDashboard(config({ tokenFile: `${folder}/short` }), source, undefined);
    assert.match(weak!.place.reason!, /16 to 256 letters/);
  });
});
