import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ColoCompare } from '../../../src/net/compare/compare.ts';
import { arp, bytesOf, ethernet, icmp, ipv4, ipv6, keyOf, payloadText, tcp, udp, vlan } from './frames.ts';
import { makeRig, withRig } from './compare-rig.ts';
import type { Rig } from './compare-rig.ts';
import { MemoryChardev, framed, joined } from './memory-chardev.ts';

/** The last letters of each frame. */
const tails = (rig: Rig, letters = 1): string[] =>
  rig.released().map((frame) => Buffer.from(frame.subarray(-letters)).toString());

test('UDP packets leave in their own order, in whichever order the twins come', () =>
  withRig((rig) => {
    rig.primary.giveFrame(udp('A'));
    rig.primary.giveFrame(udp('B'));
    rig.secondary.giveFrame(udp('A', { id: 7, ttl: 1 }));
    assert.deepEqual(tails(rig), ['A']);
    rig.secondary.giveFrame(udp('B'));
    assert.deepEqual(tails(rig), ['B']);
    rig.secondary.giveFrame(udp('D'));
    rig.secondary.giveFrame(udp('C'));
    rig.primary.giveFrame(udp('C'));
    rig.primary.giveFrame(udp('D'));
    assert.deepEqual(tails(rig), ['C', 'D']);
    assert.deepEqual(rig.requests, []);
  }));

test('a datagram without a twin among those the secondary sent is a difference', () =>
  withRig((rig) => {
    rig.secondary.giveFrame(udp('XX'));
    rig.primary.giveFrame(udp('AA'));
    assert.deepEqual(rig.requests, [
      {
        cause: 'payload',
        flow: 'udp/10.0.2.15:53>10.0.2.2:5000',
        key: keyOf(udp('')),
        difference: { packetOffset: 42, payloadOffset: 8, primaryByte: 0x41, secondaryByte: 0x58 },
      },
    ]);
    assert.deepEqual(rig.released(), []);
  }));

test('ICMP, other protocols and fragments are compared by what is behind the IP header', () =>
  withRig((rig) => {
    const gre = (id: number, text: string): Uint8Array => ipv4(47, Buffer.from(text), { id });
    const piece = (fragment: number, id: number): Uint8Array => udp('same', { fragment, id });
    for (const side of [rig.primary, rig.secondary]) {
      const id = side === rig.primary ? 1 : 2;
      side.giveFrame(icmp('ping'));
      side.giveFrame(gre(id, 'tunnel'));
      side.giveFrame(piece(0x2000, id));
    }
    assert.equal(rig.released().length, 3);
    rig.primary.giveFrame(piece(0x2000, 1));
    rig.secondary.giveFrame(piece(0x0001, 2));
    assert.equal(rig.released().length, 0, 'another place in the datagram');
    assert.equal(rig.requests.length, 1);
  }));

test('nothing leaves uncompared, whatever it is', () =>
  withRig((rig) => {
    const tagged = vlan(5, udp('x'));
    const broken = udp('length');
    broken[16] = 0xff;
    const frames: Uint8Array[] = [
      arp(),
      tagged,
      vlan(7, tagged),
      vlan(6, vlan(7, tagged)),
      ipv6(99, bytesOf('six')),
      broken,
    ];
    frames.push(ethernet(0x88cc, bytesOf('neighbour')), new Uint8Array(17), new Uint8Array(3).fill(1));
    for (const frame of frames) {
      rig.primary.giveFrame(frame);
      assert.deepEqual(rig.released(), []);
      rig.secondary.giveFrame(frame);
      assert.deepEqual(rig.released(), [new Uint8Array(frame)]);
      rig.secondary.giveFrame(frame);
      rig.primary.giveFrame(frame);
      assert.deepEqual(rig.released(), [new Uint8Array(frame)]);
    }
    assert.deepEqual([rig.compare.stats.forwarded, rig.requests.length, rig.compare.heldPackets], [0, 0, 0]);
  }));

test('the vnet word is passed on as it came, and the vnet header is not compared', () =>
  withRig(
    (rig) => {
      const withHeader = (byte: number): Uint8Array =>
        Buffer.concat([new Uint8Array(12).fill(byte), udp('v')]);
      rig.primary.giveFrame(withHeader(0), 12);
      rig.secondary.giveFrame(withHeader(9), 12);
      assert.deepEqual(rig.out.written, [framed(withHeader(0), 12)]);
    },
    { vnetHdrSupport: true },
  ));

test('a zero-length frame is skipped and an oversized one ends the connection, not the comparer', () =>
  withRig((rig) => {
    rig.primary.give(new Uint8Array(4));
    assert.throws(() => rig.primary.give(Buffer.from('00100000', 'hex')), /1048576/);
    rig.secondary.giveFrame(udp('x'));
    rig.primary.giveFrame(udp('x'));
    assert.equal(rig.released().length, 0);
    rig.primary.disconnect();
    rig.primary.reconnect();
    rig.primary.giveFrame(udp('x'));
    assert.equal(rig.released().length, 1);
  }));

test('past the queue bound a checkpoint is asked for and memory stays bounded', () =>
  withRig(
    async (rig) => {
      for (let at = 0; at < 10; at++) rig.primary.giveFrame(udp(`${at}`));
      assert.deepEqual(rig.requests[0]?.cause, 'queue-full');
      assert.deepEqual([rig.compare.heldPackets, rig.compare.stats.droppedPrimary], [4, 6]);
      await rig.checkpoint();
      assert.deepEqual(tails(rig), ['0', '1', '2', '3']);
      for (let at = 0; at < 10; at++) rig.secondary.giveFrame(udp(`${at}`));
      assert.deepEqual([rig.requests.length, rig.compare.stats.droppedSecondary], [2, 6]);
    },
    { maxQueueSize: 4 },
  ));

test('what is dropped while a checkpoint is taken is made good by the next one', () =>
  withRig(
    async (rig) => {
      rig.compare.stopped('primary');
      await rig.compare.peerMarks('primary', rig.secondaryMark());
      rig.compare.resumed('primary');
      for (let at = 0; at < 5; at++) rig.primary.giveFrame(udp(`${at}`));
      assert.deepEqual([rig.requests.length, rig.compare.stats.droppedPrimary], [0, 1]);
      await rig.compare.commit('primary');
      assert.deepEqual(rig.requests[0]?.cause, 'queue-full');
      await rig.checkpoint();
      assert.equal(rig.requests.length, 1);
    },
    { maxQueueSize: 4 },
  ));

test('the bytes held over all connections are bounded', () =>
  withRig(
    (rig) => {
      for (let port = 1; port <= 5; port++)
        rig.primary.giveFrame(udp(new Uint8Array(900), { sourcePort: port }));
      assert.deepEqual([rig.compare.heldPackets, rig.requests[0]?.cause], [3, 'queue-full']);
    },
    // Each takes a buffer of 1024 bytes and a record.
    { maxHeldBytes: 4000 },
  ));

test('a full table forgets idle connections only', () =>
  withRig(
    (rig) => {
      const both = (port: number): void => {
        rig.secondary.giveFrame(udp('x', { sourcePort: port }));
        rig.primary.giveFrame(udp('x', { sourcePort: port }));
      };
      rig.primary.giveFrame(udp('held', { sourcePort: 1, destinationPort: 1 }));
      both(2);
      both(3);
      both(4);
      assert.deepEqual([rig.compare.connections, rig.compare.heldPackets], [3, 1]);
      rig.primary.giveFrame(udp('held', { sourcePort: 5, destinationPort: 5 }));
      rig.primary.giveFrame(udp('held', { sourcePort: 6, destinationPort: 6 }));
      assert.deepEqual(rig.requests, []);
      rig.primary.giveFrame(udp('held', { sourcePort: 7, destinationPort: 7 }));
      const full = { cause: 'queue-full', flow: '(connections)', key: null, difference: null };
      assert.deepEqual(rig.requests, [full]);
      assert.equal(rig.compare.heldPackets, 3);
    },
    { maxFlows: 3 },
  ));

test('an epoch is cut at the byte the guest had reached, though its packets arrive late', async () => {
  const [sender, primary] = joined('compare0', 'compare0-0');
  sender.peer = null;
  const rig = makeRig({
    primaryIn: primary,
    findSender: (stream) => (stream === 'compare0:1>compare0-0:2' ? sender : null),
  });
  try {
    const late = udp('2');
    const say = (frame: Uint8Array): void => void sender.write(framed(frame));
    say(udp('1'));
    primary.give(sender.written[0]!);
    say(late);
    rig.compare.stopped('primary');
    await rig.compare.peerMarks('primary', rig.secondaryMark());
    // The guest runs on before the commit.
    rig.compare.resumed('primary');
    say(udp('3'));
    const committed = rig.compare.commit('primary');
    await Promise.resolve();
    assert.deepEqual(tails(rig), [], 'nothing leaves before the secondary holds the checkpoint');
    primary.give(sender.written[1]!);
    primary.give(sender.written[2]!);
    await committed;
    assert.deepEqual(tails(rig), ['1', '2'], 'the next epoch stays');
    rig.secondary.giveFrame(udp('3'));
    assert.deepEqual(tails(rig), ['3']);
  } finally {
    rig.compare.close();
  }
});

test('packets of the closed epoch that come after the commit leave as they come', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const [sender, primary] = joined('compare0', 'compare0-0');
  sender.peer = null;
  const rig = makeRig({ primaryIn: primary, findSender: () => sender });
  try {
    sender.write(framed(udp('1')));
    rig.compare.stopped('primary');
    await rig.compare.peerMarks('primary', rig.secondaryMark());
    const committed = rig.compare.commit('primary');
    t.mock.timers.tick(1001);
    await committed;
    sender.write(framed(udp('2')));
    primary.give(sender.written[0]!);
    assert.deepEqual(tails(rig), ['1']);
    primary.give(sender.written[1]!);
    assert.deepEqual(tails(rig), []);
  } finally {
    rig.compare.close();
  }
});

test("between the stop and the secondary's mark nothing it says counts; after the mark's byte it does", () =>
  withRig(async (rig) => {
    rig.primary.giveFrame(udp('a'));
    rig.compare.stopped('primary');
    rig.secondary.giveFrame(udp('a'));
    const more = framed(udp('b'));
    await rig.compare.peerMarks('primary', rig.secondaryMark(rig.secondary.bytesIn + more.length));
    rig.compare.resumed('primary');
    rig.primary.giveFrame(udp('b'));
    rig.secondary.give(more);
    rig.secondary.giveFrame(udp('b', { id: 5 }));
    assert.deepEqual(tails(rig), [], 'not before the commit, in which order is kept');
    await rig.compare.commit('primary');
    assert.deepEqual(tails(rig), ['a', 'b']);
    assert.equal(rig.compare.stats.stale, 2);
  }));

test("stale bytes that come after the commit are dropped up to the secondary's mark", () =>
  withRig(async (rig) => {
    const stale = framed(udp('x'));
    rig.compare.stopped('primary');
    await rig.compare.peerMarks('primary', rig.secondaryMark(stale.length));
    await rig.compare.commit('primary');
    rig.primary.giveFrame(udp('x'));
    rig.secondary.give(stale);
    assert.deepEqual(tails(rig), []);
    rig.secondary.giveFrame(udp('x'));
    assert.deepEqual(tails(rig), ['x']);
  }));

test('without a mark of its connection the secondary counts from the commit', () =>
  withRig(async (rig) => {
    rig.compare.stopped('primary');
    await rig.compare.peerMarks('primary', [{ stream: 'other:1>compare1:2', bytes: 1 }]);
    rig.secondary.giveFrame(udp('x'));
    await rig.compare.commit('primary');
    rig.primary.giveFrame(udp('x'));
    assert.deepEqual(tails(rig), []);
    rig.secondary.giveFrame(udp('x'));
    assert.deepEqual(tails(rig), ['x']);
  }));

test('a checkpoint that is never committed releases nothing until the pair is dissolved', () =>
  withRig(async (rig) => {
    rig.primary.giveFrame(udp('a'));
    rig.compare.stopped('primary');
    await rig.compare.peerMarks('primary', []);
    rig.compare.resumed('primary');
    rig.primary.giveFrame(udp('b'));
    await rig.compare.stop('primary', false);
    rig.compare.scan();
    assert.deepEqual(tails(rig), []);
    await rig.compare.stop('primary', true);
    rig.primary.giveFrame(udp('c'));
    assert.deepEqual(tails(rig), ['a', 'b', 'c']);
    await rig.compare.start('primary');
    rig.primary.giveFrame(udp('d'));
    assert.deepEqual(tails(rig), []);
  }));

test('before protection begins packets may pass, and then no more', () =>
  withRig(
    async (rig) => {
      rig.primary.giveFrame(udp('a'));
      assert.deepEqual(tails(rig), ['a']);
      await rig.compare.start('primary');
      rig.primary.giveFrame(udp('b'));
      assert.deepEqual(tails(rig), []);
    },
    { bypassUntilStarted: true },
  ));

test('a pair that never came to be leaves the guest its network', () =>
  withRig(
    async (rig) => {
      await rig.compare.start('primary');
      rig.compare.stopped('primary');
      rig.primary.giveFrame(udp('a'));
      await rig.compare.stop('primary', false);
      rig.primary.giveFrame(udp('b'));
      assert.deepEqual(tails(rig), ['a', 'b']);
      await rig.compare.start('primary');
      await rig.checkpoint();
      rig.primary.giveFrame(udp('c'));
      await rig.compare.stop('primary', false);
      assert.deepEqual(tails(rig), [], 'one that was is not dissolved by an error');
    },
    { bypassUntilStarted: true },
  ));

test('with notify_dev requests go there, and a checkpoint taken there releases', async () => {
  const notifyDev = new MemoryChardev('notify');
  await withRig(
    (rig) => {
      notifyDev.giveFrame(Buffer.from('COLO_USERSPACE_PROXY_INIT'));
      rig.primary.giveFrame(udp('a'));
      rig.secondary.giveFrame(udp('b'));
      notifyDev.giveFrame(Buffer.from('nonsense'));
      assert.deepEqual(
        notifyDev.frames().map((frame) => Buffer.from(frame).toString()),
        ['COLO_COMPARE_GET_XEN_INIT', 'DO_CHECKPOINT'],
      );
      assert.deepEqual([rig.requests, tails(rig)], [[], []]);
      notifyDev.giveFrame(Buffer.from('COLO_CHECKPOINT'));
      assert.deepEqual(tails(rig), ['a']);
      rig.primary.giveFrame(udp('b'));
      assert.deepEqual(tails(rig), [], "the secondary's were dropped");
    },
    { notifyDev },
  );
});

test('released packets wait for an outdev that does not read, in order', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  await withRig((rig) => {
    rig.out.full = true;
    for (const letter of ['a', 'b', 'c']) {
      if (letter === 'c') rig.out.full = false;
      rig.secondary.giveFrame(udp(letter));
      rig.primary.giveFrame(udp(letter));
    }
    assert.deepEqual(tails(rig), []);
    t.mock.timers.tick(10);
    assert.deepEqual(tails(rig), ['a', 'b', 'c']);
    rig.out.connected = false;
    rig.secondary.giveFrame(udp('d'));
    rig.primary.giveFrame(udp('d'));
    assert.equal(rig.compare.lostReleases, 1);
  });
});

test('chardevs are taken all or none, and given back', () => {
  const chardevs = ['p', 's', 'o'].map((id) => new MemoryChardev(id));
  const [primaryIn, secondaryIn, outdev] = chardevs as [MemoryChardev, MemoryChardev, MemoryChardev];
  outdev.attach({ onData: () => undefined }, 'somebody');
  assert.throws(() => new ColoCompare('c', { primaryIn, secondaryIn, outdev }), {
    message: "chardev 'o' is already in use",
  });
  assert.deepEqual([primaryIn.user, secondaryIn.user], [null, null]);
  const free = new MemoryChardev('o2');
  const compare = new ColoCompare('c', { primaryIn, secondaryIn, outdev: free });
  assert.equal(primaryIn.user, 'colo-compare c');
  compare.close();
  assert.deepEqual([primaryIn.user, secondaryIn.user, free.user], [null, null, null]);
});

test('late packets that fit nothing in a TCP stream are still found by the next checkpoint', () =>
  withRig(async (rig) => {
    rig.primary.giveFrame(tcp({ seq: 1, ack: 1, payload: 'a' }));
    await rig.checkpoint();
    rig.primary.giveFrame(tcp({ seq: 5, ack: 1, payload: 'gap' }));
    rig.secondary.giveFrame(tcp({ seq: 5, ack: 1, payload: 'gap' }));
    rig.clock.ms = 5000;
    rig.compare.scan();
    assert.equal(rig.requests[0]?.cause, 'timeout');
    await rig.checkpoint();
    assert.deepEqual(rig.released().map(payloadText), ['a', 'gap']);
  }));
