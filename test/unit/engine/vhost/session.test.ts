/** What a connection's messages lead to: when rings run and rest, with which index, and which descriptors are closed. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../../src/base/errors.ts';
import { FEATURE, OFFERED } from '../../../../src/engine/qemu/vhost/features.ts';
import type { Header, Message } from '../../../../src/engine/qemu/vhost/messages.ts';
import { RECEIVE, TRANSMIT, VhostSession } from '../../../../src/engine/qemu/vhost/session.ts';
import type { RunningRing } from '../../../../src/engine/qemu/vhost/session.ts';
import { FalseDriver, FalseMachine } from './false-driver.ts';

const RAM_BYTES = 1024 * 1024;
const USER = 0x7f0000000000;
const RAM_FD = 3;
const HEADER: Header = { request: 1, needsReply: false, payloadBytes: 0 };

class Rig {
  readonly machine = new FalseMachine(RAM_BYTES);
  readonly running: (RunningRing | null)[] = [null, null];
  readonly open = new Set<number>();
  readonly settled: number[] = [];
  readonly drivers = [new FalseDriver(this.machine, 0x1000, 8), new FalseDriver(this.machine, 0x3000, 8)];
  readonly session = new VhostSession(this.machine.memory, {
    isRam: (fd) => fd === RAM_FD,
    close: (fd) => assert.ok(this.open.delete(fd), `descriptor ${fd} is closed twice`),
    changed: (ring, running) => (this.running[ring] = running),
    settle: (ring) => this.settled.push(ring),
  });
  #nextFd = 10;

  say(message: Message, fd?: number): Buffer | null {
    if (fd !== undefined) this.open.add(fd);
    return this.session.handle(HEADER, message, fd === undefined ? [] : [fd]);
  }

  fd(): number {
    return this.#nextFd++;
  }

  table(): void {
    const region = { guestAddress: 0, byteLength: RAM_BYTES, userAddress: USER, fileOffset: 0 };
    this.say({ name: 'SET_MEM_TABLE', regions: [region] }, RAM_FD);
  }

  setUp(ring: number, next = 0): void {
    const { size, descriptors, available, used } = this.drivers[ring]!;
    this.say({ name: 'SET_VRING_NUM', ring, value: size });
    this.say({ name: 'SET_VRING_BASE', ring, value: next });
    const at = { descriptors: USER + descriptors, available: USER + available, used: USER + used };
    this.say({ name: 'SET_VRING_ADDR', ring, ...at });
    this.say({ name: 'SET_VRING_KICK', ring, isPolled: false }, this.fd());
    this.say({ name: 'SET_VRING_CALL', ring, isPolled: false }, this.fd());
  }

  start(next = 0): void {
    this.say({ name: 'SET_FEATURES', value: FEATURE.VERSION_1 | FEATURE.PROTOCOL });
    this.table();
    for (const ring of [RECEIVE, TRANSMIT]) {
      this.say({ name: 'SET_VRING_ENABLE', ring, value: 1 });
      this.setUp(ring, next);
    }
  }
}

void describe('a vhost-user session', () => {
  it('offers what it offers', () => {
    const rig = new Rig();
    assert.equal(rig.say({ name: 'GET_FEATURES' })!.readBigUInt64LE(12), OFFERED);
    for (const needed of [FEATURE.LOG_ALL, FEATURE.PROTOCOL, FEATURE.CSUM, FEATURE.HOST_TSO4]) {
      assert.notEqual(OFFERED & needed, 0n);
    }
    assert.throws(() => rig.say({ name: 'SET_FEATURES', value: 1n << 40n }), ProtocolError);
  });

  it('runs a ring when it has all, and settles it before it tells where it stands', () => {
    const rig = new Rig();
    rig.start(0xfffe);
    assert.ok(rig.running[RECEIVE] && rig.running[TRANSMIT]);
    assert.equal(rig.running[TRANSMIT].features, FEATURE.VERSION_1 | FEATURE.PROTOCOL);
    assert.equal(rig.running[TRANSMIT].ring.next, 0xfffe);
    const reply = rig.say({ name: 'GET_VRING_BASE', ring: TRANSMIT, value: 0 })!;
    assert.deepEqual([reply.readUInt32LE(12), reply.readUInt32LE(16)], [TRANSMIT, 0xfffe]);
    assert.deepEqual(rig.settled, [TRANSMIT]);
    assert.deepEqual(
      rig.running.map((one) => one !== null),
      [true, false],
    );
    rig.setUp(TRANSMIT, 5);
    assert.deepEqual(
      rig.running.map((one) => one?.ring.next),
      [0xfffe, 5],
    );
  });

  it('keeps the place of a ring through a new table of memory', () => {
    const rig = new Rig();
    rig.start();
    rig.drivers[TRANSMIT]!.offer([{ address: 0x8000, length: 100 }], false);
    const { ring } = rig.running[TRANSMIT]!;
    ring.begin();
    assert.ok(ring.take(false));
    ring.give(0);
    rig.table();
    assert.notEqual(rig.running[TRANSMIT]!.ring, ring);
    assert.equal(rig.running[TRANSMIT]!.ring.next, 1);
  });

  it('does not run a ring that is disabled, or not in memory, or no ring', () => {
    const rig = new Rig();
    rig.start();
    rig.say({ name: 'SET_VRING_ENABLE', ring: RECEIVE, value: 0 });
    assert.equal(rig.running[RECEIVE], null);
    rig.say({ name: 'SET_VRING_ENABLE', ring: RECEIVE, value: 1 });
    assert.ok(rig.running[RECEIVE]);
    for (const at of [USER - 4096, USER + RAM_BYTES - 16, 0, USER + 1]) {
      rig.say({ name: 'SET_VRING_ADDR', ring: RECEIVE, descriptors: at, used: USER, available: USER });
      assert.equal(rig.running[RECEIVE], null, String(at));
    }
    rig.say({ name: 'SET_VRING_ADDR', ring: RECEIVE, descriptors: USER, used: USER, available: USER });
    assert.ok(rig.running[RECEIVE]);
    for (const value of [0, 3, 2048, 0xffffffff]) {
      rig.say({ name: 'SET_VRING_NUM', ring: RECEIVE, value });
      rig.table();
      assert.equal(rig.running[RECEIVE], null, `${value} entries`);
    }
  });

  it('takes no memory for the guest’s that is not, and no ring that there is not', () => {
    const region = { guestAddress: 0, byteLength: RAM_BYTES, userAddress: USER, fileOffset: 0 };
    const cases: [Message, number?][] = [
      [{ name: 'SET_MEM_TABLE', regions: [region] }, 9],
      [{ name: 'SET_MEM_TABLE', regions: [{ ...region, fileOffset: 4096 }] }, RAM_FD],
      [{ name: 'SET_VRING_NUM', ring: 2, value: 8 }],
      [{ name: 'GET_VRING_BASE', ring: 0xffffffff, value: 0 }],
      [{ name: 'SET_VRING_BASE', ring: 0, value: 0x10000 }],
      [{ name: 'SET_VRING_KICK', ring: 9, isPolled: false }, 11],
    ];
    for (const [message, fd] of cases) {
      const rig = new Rig();
      assert.throws(() => rig.say(message, fd), ProtocolError, message.name);
      rig.session.close();
      assert.equal(rig.open.size, 0, message.name);
    }
  });

  it('closes every descriptor once, whatever is said', () => {
    const ring = fc.nat(2);
    const fdMessage = fc.record({
      name: fc.constantFrom('SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR'),
      ring,
      isPolled: fc.boolean(),
    });
    const stateMessage = fc.record({
      name: fc.constantFrom('SET_VRING_NUM', 'SET_VRING_BASE', 'GET_VRING_BASE', 'SET_VRING_ENABLE'),
      ring,
      value: fc.constantFrom(0, 1, 8, 0x10000),
    });
    const plain = fc.constantFrom<Message>({ name: 'RESET_OWNER' }, { name: 'SET_LOG_BASE' });
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fdMessage, stateMessage, plain) as fc.Arbitrary<Message>, { maxLength: 30 }),
        (messages) => {
          const rig = new Rig();
          rig.start();
          for (const message of messages) {
            const hasFd = message.name === 'SET_LOG_BASE' || ('isPolled' in message && !message.isPolled);
            try {
              rig.say(message, hasFd ? rig.fd() : undefined);
            } catch (error) {
              assert.ok(error instanceof ProtocolError, String(error));
            }
          }
          rig.session.close();
          assert.equal(rig.open.size, 0);
          assert.deepEqual(rig.running, [null, null]);
        },
      ),
    );
  });
});
