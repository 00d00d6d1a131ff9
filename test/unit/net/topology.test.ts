/** The network half of COLO whole: the objects of QEMU's guide on both sides, over real sockets, with two toy guests. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import type { CheckpointParticipant } from '../../../src/base/participant.ts';
import type { Chardev } from '../../../src/chardev/chardev.ts';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import type { ColoCompare } from '../../../src/net/compare/compare.ts';
import type { NetFilter } from '../../../src/net/filter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { createColoCompare, createFilter } from '../../../src/net/objects.ts';
import type { FilterType, NetObjectContext } from '../../../src/net/objects.ts';
import { udp } from './frames.ts';

/** Frames as text, to wait for. The payload is what is behind the UDP header. */
class Inbox {
  readonly texts: string[] = [];
  #changed = new Deferred<void>();

  readonly take = (frame: Uint8Array): void => {
    this.texts.push(Buffer.from(frame.subarray(42)).toString());
    const changed = this.#changed;
    this.#changed = new Deferred<void>();
    changed.resolve();
  };

  async until(...texts: string[]): Promise<void> {
    const wait = async (): Promise<void> => {
      while (this.texts.length < texts.length) await this.#changed.promise;
    };
    await withDeadline(wait(), 10_000, `${texts.join(' ')}, not only ${this.texts.join(' ')}`);
    assert.deepEqual(this.texts.splice(0), texts);
  }
}

class Side {
  readonly netdev = new Netdev({ id: 'hn0' });
  readonly guest = new Inbox();
  readonly wire = new Inbox();
  readonly chardevs = new Map<string, SocketChardev>();
  readonly participants: CheckpointParticipant[] = [];
  readonly #closers: (() => void)[] = [];
  readonly context: NetObjectContext = {
    netdev: () => this.netdev,
    chardev: (id) => this.chardevs.get(id) ?? null,
    findSender: (stream): Chardev | null =>
      [...this.chardevs.values()].find(({ connection }) => connection?.outgoing === stream) ?? null,
  };

  constructor() {
    this.netdev.guest = this.guest.take;
    this.netdev.wire = this.wire.take;
  }

  /** Without a port: a server on a free one. */
  async chardev(id: string, port?: string): Promise<string> {
    const chardev = new SocketChardev({
      backend: 'socket',
      id,
      address: { type: 'inet', host: '127.0.0.1', port: port ?? '0' },
      server: port === undefined,
      wait: false,
      nodelay: true,
      reconnectMs: 0,
    });
    this.chardevs.set(id, chardev);
    await chardev.open();
    return chardev.listening?.type === 'inet' ? chardev.listening.port : '';
  }

  filter(type: FilterType, id: string, properties: Record<string, string>): NetFilter {
    const { filter } = createFilter(type, id, { netdev: 'hn0', ...properties }, this.context);
    if (filter.participant) this.participants.push(filter.participant);
    this.#closers.push(() => filter.close());
    return filter;
  }

  compare(properties: Record<string, string>): ColoCompare {
    const compare = createColoCompare('comp0', properties, this.context);
    this.participants.push(compare);
    this.#closers.push(() => compare.close());
    return compare;
  }

  async close(): Promise<void> {
    for (const close of this.#closers) close();
    for (const chardev of this.chardevs.values()) await chardev.close();
  }
}

async function makePair(): Promise<{ primary: Side; secondary: Side; compare: ColoCompare }> {
  const primary = new Side();
  const secondary = new Side();
  const mirrorPort = await primary.chardev('mirror0');
  const comparePort = await primary.chardev('compare1');
  await primary.chardev('compare0-0', await primary.chardev('compare0'));
  await primary.chardev('compare_out0', await primary.chardev('compare_out'));
  primary.filter('filter-mirror', 'm0', { queue: 'tx', outdev: 'mirror0' });
  primary.filter('filter-redirector', 'redire0', { queue: 'rx', indev: 'compare_out' });
  primary.filter('filter-redirector', 'redire1', { queue: 'rx', outdev: 'compare0' });
  const compare = primary.compare({
    primary_in: 'compare0-0',
    secondary_in: 'compare1',
    outdev: 'compare_out0',
    iothread: 'iothread1',
  });
  await secondary.chardev('red0', mirrorPort);
  await secondary.chardev('red1', comparePort);
  secondary.netdev.wireEnabled = false;
  secondary.filter('filter-redirector', 'f1', { queue: 'tx', indev: 'red0' });
  secondary.filter('filter-redirector', 'f2', { queue: 'rx', outdev: 'red1' });
  secondary.filter('filter-rewriter', 'rew0', { queue: 'all' });
  for (const id of ['mirror0', 'compare1', 'compare0', 'compare_out']) {
    await primary.chardevs.get(id)!.waitConnected(AbortSignal.timeout(10_000));
  }
  return { primary, secondary, compare };
}

/** The dialogue of checkpoint/, cut to its network part; `load` stands for the state that travels. */
async function checkpoint(primary: Side, secondary: Side, load: () => void): Promise<void> {
  for (const one of secondary.participants) one.stopping?.('secondary');
  const secondaryMarks = secondary.participants.flatMap((one) => one.stopped('secondary'));
  for (const one of primary.participants) one.stopping?.('primary');
  primary.netdev.hold();
  const primaryMarks = primary.participants.flatMap((one) => one.stopped('primary'));
  for (const one of primary.participants) await one.peerMarks?.('primary', secondaryMarks);
  for (const one of primary.participants) one.resumed?.('primary');
  primary.netdev.release();
  for (const one of secondary.participants) await one.peerMarks?.('secondary', primaryMarks);
  load();
  for (const one of secondary.participants) await one.commit('secondary');
  for (const one of secondary.participants) one.resumed?.('secondary');
  for (const one of primary.participants) await one.commit('primary');
}

test('input reaches both guests once, output leaves once, over checkpoints and a failover', async () => {
  const { primary, secondary, compare } = await makePair();
  const asked = new Deferred<string>();
  compare.onCheckpointRequest = (reason) => asked.resolve(reason.cause);
  try {
    for (const one of primary.participants) await one.start('primary');
    for (const one of secondary.participants) await one.start('secondary');
    await checkpoint(primary, secondary, () => undefined);

    primary.netdev.receiveFromWire(udp('in 1'));
    await primary.guest.until('in 1');
    await secondary.guest.until('in 1');
    primary.netdev.sendFromGuest(udp('out 1'));
    secondary.netdev.sendFromGuest(udp('out 1', { id: 9 }));
    await primary.wire.until('out 1');

    // The guests differ; input is on its way to the secondary when the primary's state is taken.
    primary.netdev.sendFromGuest(udp('out 2'));
    secondary.netdev.sendFromGuest(udp('OUT 2'));
    assert.equal(await withDeadline(asked.promise, 10_000, 'a request'), 'payload');
    for (const one of secondary.participants) one.stopping?.('secondary');
    primary.netdev.receiveFromWire(udp('in 2, in the checkpoint'));
    primary.netdev.sendFromGuest(udp('out 3, in flight'));
    await checkpoint(primary, secondary, () => {
      primary.netdev.receiveFromWire(udp('in 3, after it'));
    });
    await primary.wire.until('out 2', 'out 3, in flight');
    await primary.guest.until('in 2, in the checkpoint', 'in 3, after it');
    await secondary.guest.until('in 3, after it');

    // Both go on from the same state.
    secondary.netdev.sendFromGuest(udp('out 4'));
    primary.netdev.sendFromGuest(udp('out 4'));
    await primary.wire.until('out 4');

    // The primary dies before it has released what both have said.
    secondary.netdev.sendFromGuest(udp('out 5'));
    await primary.close();
    for (const one of secondary.participants) await one.stop('secondary', true);
    secondary.netdev.wireEnabled = true;
    secondary.netdev.notify('failover');
    await secondary.wire.until('out 4', 'out 5');
    secondary.netdev.sendFromGuest(udp('out 6'));
    secondary.netdev.receiveFromWire(udp('in 4'));
    await secondary.wire.until('out 6');
    await secondary.guest.until('in 4');
  } finally {
    await primary.close();
    await secondary.close();
  }
});
