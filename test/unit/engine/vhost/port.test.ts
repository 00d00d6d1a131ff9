/** A NIC's port over a real socket with real descriptors: frames both ways, mad drivers and mad front-ends, nothing left open. */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync, readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { pathOfFd } from '../../../../src/engine/qemu/hidden-socket.ts';
import { FEATURE } from '../../../../src/engine/qemu/vhost/features.ts';
import { MAX_WAITING_FRAMES, VhostPort } from '../../../../src/engine/qemu/vhost/port.ts';
import { VNET_HEADER_BYTES } from '../../../../src/net/offload.ts';
import { until } from '../../../helpers/colo.ts';
import { FalseDriver, FalseMachine } from './false-driver.ts';
import { FalseFrontEnd, count, kick, makeEventFd, u64, words } from './false-front-end.ts';

const RAM_BYTES = 1024 * 1024;
const USER = 0x7f0000000000;
const WAIT_MS = 10_000;

class Rig implements AsyncDisposable {
  readonly machine: FalseMachine;
  readonly drivers: FalseDriver[];
  readonly frames: Buffer[] = [];
  readonly port: VhostPort;
  readonly front: FalseFrontEnd;
  readonly kicks = [makeEventFd(), makeEventFd()];
  readonly calls = [makeEventFd(), makeEventFd()];
  /** Stands for the RAM file. */
  readonly #ramFd: number;

  private constructor(machine: FalseMachine, port: VhostPort, ramFd: number) {
    this.machine = machine;
    this.drivers = [0x1000, 0x3000].map((at) => new FalseDriver(machine, at, 8));
    this.port = port;
    this.#ramFd = ramFd;
    this.front = new FalseFrontEnd(pathOfFd(port.fd));
    port.handedOver();
    port.onFrame = (frame) => this.frames.push(Buffer.from(frame));
  }

  static async open(): Promise<Rig> {
    const ramFd = openSync('/dev/zero', 'r');
    const machine = new FalseMachine(RAM_BYTES);
    const { memory } = machine;
    return new Rig(machine, await VhostPort.open({ name: 'nic0', memory, ram: fstatSync(ramFd) }), ramFd);
  }

  start(features = FEATURE.VERSION_1 | FEATURE.MRG_RXBUF): void {
    const { front } = this;
    front.say(2, u64(features | FEATURE.PROTOCOL));
    front.say(5, Buffer.concat([words(1, 0), u64(0n), u64(BigInt(RAM_BYTES)), u64(BigInt(USER)), u64(0n)]), [
      this.#ramFd,
    ]);
    for (const ring of [0, 1]) this.startRing(ring);
  }

  startRing(ring: number, next = 0): void {
    const { size, descriptors, available, used } = this.drivers[ring]!;
    const at = (offset: number): Buffer => u64(BigInt(USER + offset));
    this.front.say(18, words(ring, 1));
    this.front.say(8, words(ring, size));
    this.front.say(10, words(ring, next));
    this.front.say(9, Buffer.concat([words(ring, 0), at(descriptors), at(used), at(available), u64(0n)]));
    this.front.say(12, words(ring, 0), [this.kicks[ring]!]);
    this.front.say(13, words(ring, 0), [this.calls[ring]!]);
  }

  /** Where the ring stands; it rests from then on. */
  async stopRing(ring: number): Promise<number> {
    this.front.say(11, words(ring, 0));
    const answer = await this.front.answer();
    assert.equal(answer.readUInt32LE(0), ring);
    return answer.readUInt32LE(4);
  }

  offerFrame(length: number, fill: number): void {
    this.machine.ram.fill(fill, 0x8000, 0x8000 + length);
    this.drivers[1]!.offer([{ address: 0x8000, length }], false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.port.close();
    this.front.close();
    for (const fd of [...this.kicks, ...this.calls, this.#ramFd]) closeSync(fd);
    return Promise.resolve();
  }
}

function packet(fill: number, length = 100): Buffer {
  return Buffer.concat([Buffer.alloc(VNET_HEADER_BYTES), Buffer.alloc(length, fill)]);
}

void describe('a vhost-user port', () => {
  it('takes frames when it is kicked, and those that were there before', async () => {
    await using rig = await Rig.open();
    rig.offerFrame(112, 0);
    rig.start();
    await until('the first frame', WAIT_MS, () => rig.frames.length === 1);
    rig.offerFrame(200, 0);
    assert.equal(rig.frames.length, 1);
    kick(rig.kicks[1]!);
    await until('the second frame', WAIT_MS, () => rig.frames.length === 2);
    assert.deepEqual(
      rig.frames.map(({ length }) => length),
      [112, 200],
    );
    await until('an interrupt', WAIT_MS, () => count(rig.calls[1]!) > 0);
    rig.drivers[1]!.noInterrupts = true;
    rig.offerFrame(300, 0);
    kick(rig.kicks[1]!);
    await until('the third frame', WAIT_MS, () => rig.frames.length === 3);
    assert.equal(count(rig.calls[1]!), 0);
    assert.equal(await rig.stopRing(1), 3);
  });

  it('settles a ring before it says where it stands, and goes on from there', async () => {
    await using rig = await Rig.open();
    rig.start();
    assert.equal(await rig.stopRing(0), 0);
    // Nobody has kicked.
    rig.offerFrame(112, 0);
    rig.offerFrame(113, 0);
    assert.equal(await rig.stopRing(1), 2);
    assert.equal(rig.frames.length, 2);
    rig.offerFrame(114, 0);
    kick(rig.kicks[1]!);
    rig.startRing(1, 2);
    await until('the third frame', WAIT_MS, () => rig.frames.length === 3);
  });

  it('keeps frames for a guest that rests, within bounds', async () => {
    await using rig = await Rig.open();
    for (let number = 0; number < MAX_WAITING_FRAMES + 3; number++) rig.port.send(packet(number & 255));
    assert.equal(rig.port.lostFrames, 3);
    for (let at = 0; at < 2; at++)
      rig.drivers[0]!.offer([{ address: 0x10000 + at * 4096, length: 1600 }], true);
    rig.start();
    await until(
      'two frames',
      WAIT_MS,
      () => rig.drivers[0]!.collect().length === 2 || count(rig.calls[0]!) > 0,
    );
    assert.deepEqual([rig.machine.ram[0x10000 + 12], rig.machine.ram[0x11000 + 12]], [0, 1]);
    await until('that it asks for more', WAIT_MS, () => rig.drivers[0]!.wantsKicks);
    rig.drivers[0]!.offer([{ address: 0x12000, length: 1600 }], true);
    kick(rig.kicks[0]!);
    await until('the third frame', WAIT_MS, () => rig.machine.ram[0x12000 + 12] === 2);
    assert.equal(await rig.stopRing(0), 3);
  });

  it('makes frames whole for a guest that has not accepted what their headers ask for', async () => {
    await using rig = await Rig.open();
    for (let at = 0; at < 4; at++)
      rig.drivers[0]!.offer([{ address: 0x10000 + at * 4096, length: 4096 }], true);
    rig.start();
    const left = packet(1);
    left[0] = 1;
    left.writeUInt16LE(20, 6);
    left.writeUInt16LE(6, 8);
    rig.port.send(left);
    await until('a frame', WAIT_MS, () => rig.drivers[0]!.collect().length === 1);
    assert.equal(rig.machine.ram[0x10000], 0);
    assert.notEqual(rig.machine.ram.readUInt16BE(0x10000 + 12 + 26), 0x0101);
    left[1] = 3;
    rig.port.send(left);
    assert.equal(rig.port.lostFrames, 1);
  });

  it('lets a ring rest whose driver lies, and serves it when it is set up anew', async () => {
    await using rig = await Rig.open();
    rig.start();
    rig.drivers[1]!.push(77);
    kick(rig.kicks[1]!);
    await until('that it rests', WAIT_MS, () => rig.port.counts.brokenRings === 1);
    kick(rig.kicks[1]!);
    assert.equal(await rig.stopRing(1), 0);
    rig.machine.ram.fill(0, 0x3000, 0x4000);
    rig.drivers[1] = new FalseDriver(rig.machine, 0x3000, 8);
    rig.startRing(1);
    rig.offerFrame(112, 0);
    kick(rig.kicks[1]!);
    await until('a frame', WAIT_MS, () => rig.frames.length === 1);
  });

  it('takes messages in crumbs', async () => {
    await using rig = await Rig.open();
    for (const byte of words(1, 1, 0)) rig.front.sendRaw(Buffer.of(byte));
    assert.ok((await rig.front.answer()).readBigUInt64LE(0) & FEATURE.CSUM);
  });

  it('ends the connection of a front-end that breaks the protocol, and leaves no descriptor open', async () => {
    const before = readdirSync('/proc/self/fd').length;
    const none = (): Buffer => Buffer.alloc(0);
    const lies: ((rig: Rig) => void)[] = [
      (rig) => rig.front.sendRaw(Buffer.alloc(64, 0xff)),
      (rig) => rig.front.say(99, none(), [rig.kicks[0]!]),
      (rig) => rig.front.say(1, none(), [rig.kicks[0]!, rig.kicks[1]!]),
      (rig) => rig.front.say(12, words(7, 0), [rig.kicks[0]!]),
      (rig) =>
        rig.front.say(5, Buffer.concat([words(1, 0), u64(0n), u64(4096n), u64(0n), u64(0n)]), [
          rig.kicks[0]!,
        ]),
      (rig) =>
        rig.front.sendRaw(
          words(1, 1, 0),
          Array.from({ length: 40 }, () => rig.kicks[0]!),
        ),
      (rig) => rig.front.say(2, u64(1n << 50n)),
    ];
    for (const lie of lies) {
      await using rig = await Rig.open();
      rig.start();
      lie(rig);
      await rig.front.untilOver();
      rig.port.send(packet(1));
    }
    assert.equal(readdirSync('/proc/self/fd').length, before);
  });

  it('ends when its QEMU does', async () => {
    await using rig = await Rig.open();
    rig.start();
    await rig.stopRing(0);
    rig.port.close();
    await rig.front.untilOver();
    rig.port.close();
  });
});
