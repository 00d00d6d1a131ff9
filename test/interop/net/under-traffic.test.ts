/**
 * Filters that come and go, and are turned off and on, while frames flow: our program and QEMU. No frame is lost,
 * doubled or overtaken, whatever is done to the chain, and the chardevs are free again.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import {
  CAPABILITIES,
  execute,
  qemuVersion,
  startBare,
  testFolder,
  unixServer,
} from '../../helpers/bare-process.ts';
import type { BareProcess } from '../../helpers/bare-process.ts';
import { until } from '../../helpers/colo.ts';
import { udp } from '../../unit/net/frames.ts';
import { accepted } from './accepted.ts';
import { FrameSocket } from './qemu.ts';

const LINE =
  '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire ' +
  '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest ' +
  '-netdev hubport,id=h0,hubid=0,netdev=wire -netdev hubport,id=h1,hubid=0,netdev=guest';
const ROUNDS = 12;
const BURST = 16;

const number = (frame: Uint8Array): number => Number(Buffer.from(frame.subarray(42)).toString());
const numbers = ({ frames }: FrameSocket): number[] => frames.map(number);
const isRising = (list: readonly number[]): boolean =>
  list.every((one, at) => at === 0 || one > list[at - 1]!);

/** A program with a wire and a guest, and numbered frames into the wire beside everything that is typed. */
class Traffic {
  readonly bare: BareProcess;
  readonly wire: FrameSocket;
  readonly guest: FrameSocket;
  sent = 0;

  private constructor(bare: BareProcess, wire: FrameSocket, guest: FrameSocket) {
    this.bare = bare;
    this.wire = wire;
    this.guest = guest;
  }

  static async start(t: TestContext, program: 'colo' | 'qemu'): Promise<Traffic> {
    const bare = await startBare(t, program, path.join(await testFolder(t), 'vm'), LINE, async () => {});
    await bare.type(CAPABILITIES);
    const wire = await FrameSocket.connect(path.join(bare.home, 'wire'));
    const guest = await FrameSocket.connect(path.join(bare.home, 'guest'));
    t.after(() => wire.close());
    t.after(() => guest.close());
    await accepted(bare, { streams: 2 });
    return new Traffic(bare, wire, guest);
  }

  /** A chardev, its other end connected, and known to be. */
  async plug(t: TestContext, id: string): Promise<FrameSocket> {
    await this.bare.type(execute('chardev-add', { id, backend: unixServer(id) }));
    const socket = await FrameSocket.connect(path.join(this.bare.home, id));
    t.after(() => socket.close());
    await accepted(this.bare, { names: [id] });
    return socket;
  }

  /** Each command meets frames that lie in front of it and frames that come behind. */
  async during(...commands: string[]): Promise<void> {
    for (const command of commands) {
      this.burst();
      const done = this.bare.type(command);
      this.burst();
      await done;
    }
  }

  burst(): void {
    for (let count = 0; count < BURST; count++) this.wire.send(udp(String(++this.sent)));
  }

  /** Waits until every frame is at the guest or in one of `others`; each is once, and each list in order. */
  async allArrive(...others: FrameSocket[]): Promise<void> {
    const lists = [this.guest, ...others];
    const count = (): number => lists.reduce((sum, { frames }) => sum + frames.length, 0);
    await until(`${this.sent} frames`, 10_000, () => count() >= this.sent);
    for (const list of lists) assert.ok(isRising(numbers(list)), 'in order');
    const all = lists.flatMap(numbers).toSorted((a, b) => a - b);
    assert.deepEqual(
      all,
      Array.from({ length: this.sent }, (_, at) => at + 1),
    );
  }
}

const add = (type: string, more: object): string =>
  execute('object-add', { 'qom-type': `filter-${type}`, id: 'f', netdev: 'wire', queue: 'tx', ...more });
const status = (value: 'on' | 'off'): string =>
  execute('qom-set', { path: '/objects/f', property: 'status', value });
const del = execute('object-del', { id: 'f' });

for (const program of ['colo', 'qemu'] as const) {
  const skip = program === 'qemu' && qemuVersion === null ? 'qemu-system-x86_64 is not installed' : false;

  test(`filters come and go under traffic: ${program}`, { skip }, async (t) => {
    const traffic = await Traffic.start(t, program);
    const copies: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const copy = await traffic.plug(t, 'copy');
      await traffic.during(add('mirror', { outdev: 'copy' }), status('off'), status('on'), del);
      await traffic.during(execute('chardev-remove', { id: 'copy' }));
      await copy.closed;
      assert.ok(isRising(numbers(copy)));
      copies.push(copy.frames.length);

      await traffic.during(add('rewriter', { queue: 'all' }), status('off'), status('on'), del);
      await traffic.during(add('dump', { file: `DIR/${round}.pcap` }), status('off'), status('on'), del);
      // Long: it lets go when it is turned off and when it is deleted. Short: all the time.
      for (const interval of [4_000_000_000, 500]) {
        await traffic.during(add('buffer', { interval }), status('off'), status('on'), del);
      }
      const indev = await traffic.plug(t, 'in');
      await traffic.during(add('redirector', { indev: 'in' }), status('off'), status('on'), del);
      await traffic.during(execute('chardev-remove', { id: 'in' }));
      await indev.closed;
    }
    await traffic.allArrive();
    assert.ok(
      copies.every((count) => count <= 8 * BURST) && copies.some((count) => count > 0),
      copies.join(' '),
    );
  });

  test(`a redirector takes frames out and lets them by, none twice: ${program}`, { skip }, async (t) => {
    const traffic = await Traffic.start(t, program);
    const taken = await traffic.plug(t, 'taken');
    for (let round = 0; round < ROUNDS; round++) {
      await traffic.during(add('redirector', { outdev: 'taken' }), status('off'), status('on'), del);
    }
    await traffic.allArrive(taken);
    assert.ok(taken.frames.length > 0 && traffic.guest.frames.length > 0);
    await traffic.bare.type(execute('chardev-remove', { id: 'taken' }));
  });
}
