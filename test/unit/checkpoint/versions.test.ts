/**
 * Neighbouring versions as a pair: what the version before the heartbeat said is in here as it was recorded, and a
 * later one may say more than this one knows.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { describe, it } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { CheckpointChannel } from '../../../src/checkpoint/channel.ts';
import { COLO_MESSAGE, encodeBeat, parseHello } from '../../../src/checkpoint/messages.ts';
import { receiveMachine, sendMachine } from '../../../src/checkpoint/migration.ts';
import { socketPair } from '../../helpers/socket-pair.ts';
import { hello, side } from './frame-pair.ts';

/** A hello of 65536 bytes of RAM, one disk and one NIC, as it was sent on a wire. */
const HELLO_BEFORE_BEATS = Buffer.from(
  '434f4c4f4654000100000086' +
    '7b22656e67696e65223a226d656d6f7279222c226275696c644964223a226d656d6f72792d31222c2272616d4279746573223a36353533' +
    '362c22636f6c6f223a747275652c226469736b73223a5b7b226964223a226430222c226c656e6774684279746573223a31303438353736' +
    '7d5d2c226e696373223a5b7b226964223a226e30227d5d7d',
  'hex',
);

function codes(...list: number[]): Buffer {
  const out = Buffer.alloc(4 * list.length);
  for (const [at, code] of list.entries()) out.writeUInt32BE(code, 4 * at);
  return out;
}

/** All that a socket is sent. */
function collect(socket: Socket): Buffer[] {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  return chunks;
}

const FAST = { heartbeat: { intervalMs: 10, patienceMs: 50 } };

describe('a peer from before the heartbeat', () => {
  it('is a secondary that gets no beats, and is not missed', async () => {
    const sockets = await socketPair();
    const silent: number[] = [];
    const channel = new CheckpointChannel(sockets.left, {
      ...FAST,
      onHeartbeat: { onSilent: (ms) => silent.push(ms), onBack: () => undefined },
    });
    const { guest, engine } = side([]);
    sockets.right.resume();
    sockets.right.write(HELLO_BEFORE_BEATS);
    sockets.right.write(codes(COLO_MESSAGE.VMSTATE_RECEIVED, COLO_MESSAGE.VMSTATE_LOADED));
    await sendMachine(guest, channel, hello(engine));
    const sent = sockets.left.bytesWritten;
    // As long as several beats of either side.
    await new Promise((resolve) => setTimeout(resolve, 150));
    assert.equal(sockets.left.bytesWritten, sent);
    assert.equal(channel.heartbeat, null);
    assert.deepEqual(silent, []);
    sockets.close();
  });

  it('is a primary that is answered as it was before', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, FAST);
    const { guest, engine } = side([]);
    const chunks = collect(sockets.left);
    const received = receiveMachine(guest, channel, () => hello(engine));
    sockets.left.write(HELLO_BEFORE_BEATS);
    const empty = Buffer.alloc(16);
    sockets.left.write(
      Buffer.concat([
        ...[codes(COLO_MESSAGE.VMSTATE_SEND), empty, codes(COLO_MESSAGE.VMSTATE_SIZE), empty],
        ...[codes(COLO_MESSAGE.STREAM_MARKS, 2), Buffer.from('[]')],
      ]),
    );
    assert.equal((await received).ramBytes, 65536);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const answer = Buffer.concat(chunks);
    // Its hello has one member more, which was ignored then too.
    const text = JSON.parse(answer.subarray(12, 12 + answer.readUInt32BE(8)).toString()) as {
      features: string[];
    };
    assert.deepEqual(text.features, ['beat']);
    assert.deepEqual(
      answer.subarray(12 + answer.readUInt32BE(8)),
      codes(COLO_MESSAGE.VMSTATE_RECEIVED, COLO_MESSAGE.VMSTATE_LOADED),
    );
    sockets.close();
  });
});

it('a later peer may know more', () => {
  const later = { ...hello(side([]).engine), features: ['beat', 'telepathy'], mood: 'good' };
  const known = parseHello(JSON.stringify(later));
  assert.deepEqual(known.features, ['beat', 'telepathy']);
  assert.ok(!('mood' in known));
});

describe('beats', () => {
  it('stand between messages in any pieces, and are no message', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, { patienceMs: 20_000 });
    const heard = new Deferred<void>();
    sockets.right.on('data', () => heard.resolve());
    const beat = encodeBeat(100);
    const marks = Buffer.concat([codes(COLO_MESSAGE.STREAM_MARKS, 2), Buffer.from('[]')]);
    const stream = Buffer.concat([
      beat,
      beat,
      codes(1),
      beat,
      marks,
      beat,
      marks,
      codes(6),
      beat,
      beat,
      codes(2),
    ]);
    const reader = (async () => {
      assert.equal(await channel.receive({ idle: true }), 1);
      assert.deepEqual(await channel.receiveMarks(), []);
      assert.deepEqual(await channel.receiveMarks(), []);
      assert.equal(await channel.receive(), 6);
      assert.equal(await channel.receive(), 2);
    })();
    for (const byte of stream) {
      sockets.left.write(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await reader;
    sockets.close();
  });

  it('do not put off a deadline: they are no answer', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, { patienceMs: 100 });
    const timer = setInterval(() => sockets.left.write(encodeBeat(10)), 10);
    await assert.rejects(channel.receive(), /no a message from the peer within 100 ms/);
    clearInterval(timer);
    sockets.close();
  });

  it('both ways while nothing else is said, and not into a message', async () => {
    const sockets = await socketPair();
    const [p, s] = [side([]), side([])];
    const silent: string[] = [];
    const onHeartbeat = { onSilent: () => silent.push('silent'), onBack: () => silent.push('back') };
    const settings = { heartbeat: { intervalMs: 10, patienceMs: 20_000 }, onHeartbeat };
    const pc = new CheckpointChannel(sockets.left, settings);
    const sc = new CheckpointChannel(sockets.right, settings);
    await Promise.all([
      sendMachine(p.guest, pc, hello(p.engine)),
      receiveMachine(s.guest, sc, () => hello(s.engine)),
    ]);
    // A section that takes long: the other side reads when it wants to.
    const body = Buffer.alloc(24 << 20, 'whole');
    const sent = pc.sendRamRound({ ram: body, device: new Uint8Array(0), pages: 0 });
    for (let beats = 0; beats < 5; beats++) await once(sockets.left, 'data');
    assert.equal(await sc.receive(), COLO_MESSAGE.RAM_ROUND);
    const { ram } = await sc.receiveRamRound(32 << 20);
    assert.ok(Buffer.alloc(24 << 20, 'whole').equals(ram));
    await sent;
    for (let beats = 0; beats < 5; beats++) await once(sockets.right, 'data');
    assert.deepEqual(silent, []);
    assert.ok((pc.heartbeat?.lastHeardMs ?? Infinity) < 20_000);
    pc.destroy(null);
    assert.equal(pc.heartbeat, null);
    sockets.close();
  });
});
