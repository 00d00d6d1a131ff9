import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CheckpointChannel } from '../../../src/checkpoint/channel.ts';
import { COLO_MESSAGE } from '../../../src/checkpoint/messages.ts';
import { socketPair } from '../../helpers/socket-pair.ts';

function message(code: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(code, 0);
  return out;
}

describe('checkpoint channel', () => {
  it('reads what came while this process stood still before it accuses the peer', async () => {
    const patienceMs = 50;
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, { patienceMs });
    const received = channel.receive();
    sockets.left.write(message(COLO_MESSAGE.CHECKPOINT_REPLY));
    const until = performance.now() + 3 * patienceMs;
    while (performance.now() < until);
    assert.equal(await received, COLO_MESSAGE.CHECKPOINT_REPLY);
    sockets.close();
  });

  it('gives a silent peer up, and one that takes no data', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, { patienceMs: 50 });
    await assert.rejects(channel.receive(), /no a message from the peer within 50 ms/);
    sockets.left.pause();
    await assert.rejects(async () => {
      for (let sent = 0; sent < 200; sent++) {
        await channel.sendRamRound({ ram: new Uint8Array(1 << 20), device: new Uint8Array(0), pages: 256 });
      }
    }, /takes no data since 50 ms/);
    sockets.close();
  });

  it('counts the deadline from the last byte, so that a slow peer is not a dead one', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, { patienceMs: 400 });
    const received = channel.receive();
    const started = performance.now();
    for (const byte of message(COLO_MESSAGE.CHECKPOINT_REQUEST)) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      sockets.left.write(Uint8Array.of(byte));
    }
    assert.equal(await received, COLO_MESSAGE.CHECKPOINT_REQUEST);
    assert.ok(performance.now() - started > 400);
    sockets.close();
  });

  it('has no deadline between checkpoints, and a loss ends the wait', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right, { patienceMs: 10 });
    const received = channel.receive({ idle: true });
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(channel.failure, null);
    sockets.left.destroy();
    await assert.rejects(received, /closed/);
    assert.match((await channel.closed).message, /closed/);
    sockets.close();
  });

  it('reads the last words of a peer that has gone', async () => {
    const sockets = await socketPair();
    const peer = new CheckpointChannel(sockets.left);
    const channel = new CheckpointChannel(sockets.right);
    await peer.sendFailure('the disk broke');
    peer.end();
    await channel.closed;
    await assert.rejects(channel.receive(), /the peer gave up: the disk broke/);
    sockets.close();
  });

  it('breaks every wait off', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right);
    sockets.left.pause();
    const waits = [
      channel.receive(),
      channel.sendRamRound({ ram: new Uint8Array(64 << 20), device: new Uint8Array(0), pages: 16384 }),
    ];
    await new Promise((resolve) => setImmediate(resolve));
    channel.destroy(new Error('broken off'));
    for (const wait of waits) await assert.rejects(wait, /broken off/);
    await assert.rejects(channel.send(COLO_MESSAGE.CHECKPOINT_REQUEST), /broken off/);
    sockets.close();
  });

  it('carries many marks, and refuses too many before anything is built from them', async () => {
    const sockets = await socketPair();
    const sender = new CheckpointChannel(sockets.left);
    const channel = new CheckpointChannel(sockets.right);
    const marks = Array.from({ length: 900 }, (_, at) => ({ stream: `${at}`.padStart(250, 'x'), bytes: at }));
    const received = channel.receiveMarks();
    await sender.sendMarks(marks);
    assert.deepEqual(await received, marks);
    const refused = assert.rejects(channel.receiveMarks(), /malformed/);
    await sender.sendMarks([...marks, ...marks]);
    await refused;
    sockets.close();
  });

  it('sends bytes while it sums up a large section, and its loop goes on', async () => {
    const sockets = await socketPair();
    const sender = new CheckpointChannel(sockets.left);
    const channel = new CheckpointChannel(sockets.right, { patienceMs: 60_000 });
    const ram = Buffer.alloc(100 << 20);
    ram.writeUInt32LE(0xdeadbeef, 75 << 20);
    const chunks: number[] = [];
    sockets.right.on('data', (chunk: Buffer) => chunks.push(chunk.byteLength));
    let turns = 0;
    let counter: NodeJS.Immediate;
    const count = (): void => {
      turns++;
      counter = setImmediate(count);
    };
    count();
    const sent = sender.sendRamRound({ ram: new Uint8Array(ram), device: new Uint8Array(0), pages: 25600 });
    assert.equal(await channel.receive(), COLO_MESSAGE.RAM_ROUND);
    const begun = turns;
    assert.ok(Buffer.from((await channel.receiveRamRound(128 << 20)).ram).equals(ram));
    await sent;
    clearImmediate(counter!);
    assert.ok(turns > begun + 5);
    assert.ok(chunks.filter((bytes) => bytes < 8).length >= 4, chunks.slice(0, 12).join());
    sockets.close();
  });

  it('refuses sections beyond the guest before it makes room for them', async () => {
    const sockets = await socketPair();
    const channel = new CheckpointChannel(sockets.right);
    const header = Buffer.alloc(16);
    header.writeUInt32BE(0x7fff, 0);
    sockets.left.write(header);
    await assert.rejects(channel.receiveRamRound(1 << 20), /RAM of \d+ bytes, at most/);
    sockets.close();
  });
});
