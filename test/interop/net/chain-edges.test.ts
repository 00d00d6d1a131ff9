/** The edges of the filter chain, against QEMU's: no peer, no reader, late filters, loops, three netdevs on a hub. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_FRAME_BYTES } from '../../../src/net/framing.ts';
import { execute } from '../../helpers/bare-process.ts';
import { tcp, udp } from '../../unit/net/frames.ts';
import { whyNoQemu } from './qemu.ts';
import { Twins } from './twins.ts';

const skip = whyNoQemu();

const stream = (id: string): string => `-netdev stream,id=${id},server=on,addr.type=unix,addr.path=DIR/${id}`;
const port = (id: string, hub: number, netdev: string): string =>
  `-netdev hubport,id=${id},hubid=${hub},netdev=${netdev}`;
const socket = (id: string): string => `-chardev socket,id=${id},path=DIR/${id},server=on,wait=off`;
const client = (id: string, to: string): string => `-chardev socket,id=${id},path=DIR/${to}`;
const filter = (type: string, id: string, more: object): string =>
  execute('object-add', { 'qom-type': `filter-${type}`, id, netdev: 'wire', ...more });

/** Two netdevs on a hub. */
const PAIR = `${stream('wire')} ${stream('guest')} ${port('h0', 0, 'wire')} ${port('h1', 0, 'guest')}`;

class Counter {
  readonly #twins: Twins;
  #count = 0;

  constructor(twins: Twins) {
    this.#twins = twins;
  }

  /** Sends one frame and says what came out: `plug,plug`, of that frame alone. */
  async where(plug: string, bytes = 0): Promise<string> {
    const label = `frame ${++this.#count}`;
    this.#twins.send(plug, udp(label.padEnd(Math.max(0, bytes - 42))), label);
    const output = await this.#twins.rest(label);
    assert.ok(
      Object.values(output).every((frames) => frames.every((frame) => frame === label)),
      JSON.stringify(output),
    );
    return Object.keys(output).join();
  }
}

test('a netdev without a peer', { skip }, async (t) => {
  const line = `${stream('wire')} ${socket('copy')} ${socket('in')}`;
  const twins = await Twins.start(t, { line, plugs: ['wire', 'copy', 'in'] });
  const frames = new Counter(twins);
  await twins.type(filter('mirror', 'm', { outdev: 'copy' }));
  await twins.type(filter('redirector', 'r', { indev: 'in' }));
  assert.equal(await frames.where('wire'), '');
  assert.equal(await frames.where('in'), '');
});

test('peers that are not there, come, go and come again', { skip }, async (t) => {
  const line = `${PAIR} ${socket('copy')} ${socket('out')}`;
  const twins = await Twins.start(t, { line, plugs: ['wire', 'guest'] });
  const frames = new Counter(twins);
  await twins.type(filter('mirror', 'm', { outdev: 'copy' }));
  await twins.type(filter('redirector', 'r', { queue: 'rx', outdev: 'out' }));
  for (let round = 0; round < 2; round++) {
    // A mirror's frame passes all the same, a redirector's is lost.
    assert.equal(await frames.where('wire'), 'guest');
    assert.equal(await frames.where('guest'), '');
    await twins.plug(t, 'copy');
    await twins.plug(t, 'out');
    assert.equal(await frames.where('wire'), 'guest,copy');
    assert.equal(await frames.where('guest'), 'out');
    assert.equal(await frames.where('wire', MAX_FRAME_BYTES), 'guest,copy');
    await twins.unplug('copy');
    await twins.unplug('out');
  }
});

test('what lies in a socket waits for the filter that reads it', { skip }, async (t) => {
  const twins = await Twins.start(t, { line: `${PAIR} ${socket('in')}`, plugs: ['wire', 'guest', 'in'] });
  const frames = new Counter(twins);
  assert.equal(await frames.where('in'), '');
  await twins.type(filter('redirector', 'r', { indev: 'in', queue: 'tx' }));
  assert.deepEqual(await twins.rest('the redirector'), { guest: ['frame 1'] });
  await twins.execute('object-del', { id: 'r' });
  assert.equal(await frames.where('in'), '');
  await twins.type(filter('redirector', 'r', { indev: 'in', queue: 'rx' }));
  assert.deepEqual(await twins.rest('the other redirector'), { wire: ['frame 2'] });
});

test('out of a chain and in again, through sockets of the program itself', { skip }, async (t) => {
  const loops = ['a', 'b'].flatMap((id) => [socket(id), client(`${id}-0`, id)]);
  const line = [PAIR, ...loops, socket('copy')].join(' ');
  const twins = await Twins.start(t, { line, plugs: ['wire', 'guest', 'copy'] });
  const frames = new Counter(twins);
  // As the primary's chain around a comparer that finds everything the same, twice over.
  await twins.type(filter('mirror', 'm', { queue: 'rx', outdev: 'copy', position: 'head' }));
  await twins.type(filter('redirector', 'in-b', { queue: 'rx', indev: 'b' }));
  await twins.type(filter('redirector', 'out-b', { queue: 'rx', outdev: 'b-0' }));
  await twins.type(filter('redirector', 'in-a', { queue: 'rx', indev: 'a-0' }));
  await twins.type(filter('redirector', 'out-a', { queue: 'rx', outdev: 'a' }));
  assert.equal(await frames.where('guest'), 'wire,copy');
  assert.equal(await frames.where('wire'), 'guest');
  for (let count = 0; count < 200; count++) twins.send('guest', udp(`burst ${count}`), `burst ${count}`);
  const burst = await twins.rest('the burst');
  assert.deepEqual(
    burst['wire'],
    Array.from({ length: 200 }, (_, at) => `burst ${at}`),
  );
  assert.deepEqual(burst['copy'], burst['wire']);
  // What is injected behind a filter that has been turned off or moved goes on from there.
  await twins.execute('qom-set', { path: '/objects/out-b', property: 'status', value: 'off' });
  assert.equal(await frames.where('guest'), 'wire,copy');
  await twins.execute('object-del', { id: 'in-a' });
  await twins.type(filter('redirector', 'in-a', { queue: 'rx', indev: 'a-0', position: 'head' }));
  assert.equal(await frames.where('guest'), 'wire');
});

test('three netdevs on one hub, and a second hub', { skip }, async (t) => {
  const ids = ['wire', 'guest', 'third', 'far'];
  const line = [
    ...ids.map(stream),
    ...['wire', 'guest', 'third'].map((id) => port(`h-${id}`, 0, id)),
    port('h-far', 1, 'far'),
    '-netdev hubport,id=lone,hubid=0',
    ...['copy', 'out', 'in'].map(socket),
  ].join(' ');
  const twins = await Twins.start(t, { line, plugs: [...ids, 'copy', 'out', 'in'] });
  const frames = new Counter(twins);
  assert.equal(await frames.where('wire'), 'guest,third');
  assert.equal(await frames.where('third'), 'wire,guest');
  assert.equal(await frames.where('far'), '');
  await twins.type(filter('mirror', 'm', { netdev: 'h-third', queue: 'tx', outdev: 'copy' }));
  assert.equal(await frames.where('wire'), 'guest,third,copy');
  assert.equal(await frames.where('third'), 'wire,guest');
  await twins.type(filter('redirector', 'r', { netdev: 'h-third', queue: 'rx', indev: 'in', outdev: 'out' }));
  assert.equal(await frames.where('third'), 'out');
  assert.equal(await frames.where('in'), 'wire,guest');
  assert.equal(await frames.where('far'), '');
});

test('vnet headers of every length through mirror, comparer and redirector', { skip }, async (t) => {
  const word = ',vnet_hdr_support=on';
  const line = [
    PAIR,
    ...['in', 'copy', 'p', 's'].map(socket),
    socket('out'),
    client('o', 'out'),
    `-object filter-redirector,id=r,netdev=wire,queue=tx,indev=in${word}`,
    `-object filter-mirror,id=m,netdev=wire,queue=tx,outdev=copy${word}`,
    `-object filter-redirector,id=r2,netdev=wire,queue=rx,indev=out${word}`,
    '-object iothread,id=io',
    `-object colo-compare,id=c,primary_in=p,secondary_in=s,outdev=o,iothread=io,compare_timeout=60000${word}`,
  ].join(' ');
  const plugs = [
    'wire',
    'guest',
    ...['in', 'copy', 'p', 's'].map((name) => ({ name, vnetHdrSupport: true })),
  ];
  const twins = await Twins.start(t, { line, plugs });
  let seq = 1000;
  for (const headerBytes of [0, 10, 12, 20]) {
    // The longest segment that IPv4 has room for.
    for (const payloadBytes of [1, 1460, 65_535 - 40]) {
      const label = `${payloadBytes} bytes behind a header of ${headerBytes}`;
      const frame = (header: number): Uint8Array =>
        Buffer.concat([
          Buffer.alloc(headerBytes, header),
          tcp({ seq, ack: 1, payload: new Uint8Array(payloadBytes).fill(seq) }),
        ]);
      // Injected and mirrored: the header goes along, the word is the netdev's own.
      twins.send('in', frame(1), label, headerBytes);
      assert.deepEqual(await twins.rest(`${label}, injected`), { guest: [label], copy: [label] });
      // Compared: each packet by its own header's length; what is in the header says how to cut, not what is said.
      twins.send('s', frame(2), `${label}, the copy`, headerBytes);
      assert.deepEqual(await twins.rest(`${label}, of the secondary`), {});
      twins.send('p', frame(1), label, headerBytes);
      assert.deepEqual(await twins.rest(label), { wire: [label] });
      seq += payloadBytes;
    }
  }
});
