/**
 * One conversation through the guide's primary chain and a comparer, each of them ours or QEMU's, in all four pairings,
 * with and without the vnet word: the same packets reach the wire, in the same order, whoever filters and whoever
 * compares. The test is both guests, the world, and the manager behind notify_dev.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { CAPABILITIES, startBare, testFolder } from '../../helpers/bare-process.ts';
import type { BareProcess } from '../../helpers/bare-process.ts';
import type { TcpFields } from '../../unit/net/frames.ts';
import { icmp, tcp, udp } from '../../unit/net/frames.ts';
import { accepted } from './accepted.ts';
import { FrameSocket, whyNoQemu } from './qemu.ts';

type Program = 'colo' | 'qemu';

const skip = whyNoQemu();
const socket = (id: string): string => `-chardev socket,id=${id},path=DIR/${id},server=on,wait=off`;

function chainLine(comparer: string, word: string): string {
  return [
    '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire',
    '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest',
    '-netdev hubport,id=h0,hubid=0,netdev=wire -netdev hubport,id=h1,hubid=0,netdev=guest',
    socket('mirror0'),
    `-chardev socket,id=compare0,path=${comparer}/p`,
    `-chardev socket,id=compare_out,path=${comparer}/o`,
    `-object filter-mirror,id=m0,netdev=wire,queue=tx,outdev=mirror0${word}`,
    `-object filter-redirector,id=redire0,netdev=wire,queue=rx,indev=compare_out${word}`,
    `-object filter-redirector,id=redire1,netdev=wire,queue=rx,outdev=compare0${word}`,
  ].join(' ');
}

const compareLine = (word: string): string =>
  `${['p', 's', 'o', 'n'].map(socket).join(' ')} -object iothread,id=io ` +
  `-object colo-compare,id=c,primary_in=p,secondary_in=s,outdev=o,notify_dev=n,iothread=io,compare_timeout=60000${word}`;

/** Everything but the two guests' words: a chain in one program, a comparer in another. */
class Stage {
  readonly #sockets = new Map<string, FrameSocket>();
  readonly #hasWord: boolean;

  private constructor(hasWord: boolean) {
    this.#hasWord = hasWord;
  }

  static async set(t: TestContext, chain: Program, comparer: Program, hasWord: boolean): Promise<Stage> {
    const stage = new Stage(hasWord);
    const folder = await testFolder(t);
    const word = hasWord ? ',vnet_hdr_support=on' : '';
    const home = path.join(folder, 'comparer');
    const compare = await startBare(t, comparer, home, compareLine(word), async () => {});
    const filters = await startBare(
      t,
      chain,
      path.join(folder, 'chain'),
      chainLine(home, word),
      async () => {},
    );
    for (const bare of [compare, filters]) await bare.type(CAPABILITIES);
    const plugs: [string, BareProcess, boolean][] = [
      ['wire', filters, false],
      ['guest', filters, false],
      ['mirror0', filters, hasWord],
      ['s', compare, hasWord],
      // What notify_dev says has no word.
      ['n', compare, false],
    ];
    for (const [name, bare, word] of plugs) {
      const plug = await FrameSocket.connect(path.join(bare.home, name), word);
      t.after(() => plug.close());
      stage.#sockets.set(name, plug);
    }
    await accepted(compare);
    await accepted(filters, { streams: 2 });
    return stage;
  }

  frames(plug: string): readonly Uint8Array[] {
    return this.#sockets.get(plug)!.frames;
  }

  fromWorld(frame: Uint8Array): void {
    this.#sockets.get('wire')!.send(frame);
  }

  fromPrimary(frame: Uint8Array): void {
    this.#sockets.get('guest')!.send(frame);
  }

  fromSecondary(frame: Uint8Array): void {
    this.#sockets.get('s')!.send(frame, this.#hasWord ? 0 : null);
  }

  /** A manager's word to the comparer; what it hears has the vnet word where that is on. */
  tell(text: string): void {
    this.#sockets.get('n')!.send(Buffer.from(text), this.#hasWord ? 0 : null);
  }

  async until(plug: string, count: number): Promise<void> {
    await this.#sockets.get(plug)!.until((frames) => frames.length >= count, `${count} frames at ${plug}`);
  }
}

const question = tcp({ seq: 500, ack: 1001, payload: 'GET', source: 0x0a000202, destination: 0x0a00020f });
const said = (fields: TcpFields): Uint8Array => tcp({ ack: 511, ...fields });
const twin = (fields: TcpFields): Uint8Array => said({ id: 99, ttl: 30, window: 77, ...fields });
/** What the guest says, and what its copy says of it: now in as many pieces, now in others. */
const TALK: readonly { readonly primary: Uint8Array[]; readonly secondary: Uint8Array[] }[] = [
  { primary: [said({ seq: 1000, flags: 'S' })], secondary: [twin({ seq: 1000, flags: 'S' })] },
  { primary: [said({ seq: 1001, payload: 'hello' })], secondary: [twin({ seq: 1001, payload: 'hello' })] },
  {
    primary: [said({ seq: 1006, payload: '01234' }), said({ seq: 1011, payload: '56789' })],
    secondary: [twin({ seq: 1006, payload: '0123456789' })],
  },
  {
    primary: [said({ seq: 1016, payload: 'abcdef' })],
    secondary: [twin({ seq: 1016, payload: 'abc' }), twin({ seq: 1019, payload: 'def' })],
  },
  { primary: [udp('datagram')], secondary: [udp('datagram', { id: 3 })] },
  { primary: [icmp('ping')], secondary: [icmp('ping')] },
  {
    primary: [said({ seq: 1022, payload: new Uint8Array(60_000).fill(5) })],
    secondary: [twin({ seq: 1022, payload: new Uint8Array(60_000).fill(5) })],
  },
  { primary: [said({ seq: 61_022, flags: 'F' })], secondary: [twin({ seq: 61_022, flags: 'F' })] },
];

for (const hasWord of [false, true]) {
  for (const [chain, comparer] of [
    ['qemu', 'qemu'],
    ['colo', 'qemu'],
    ['qemu', 'colo'],
    ['colo', 'colo'],
  ] as const) {
    const name = `a chain of ${chain}, a comparer of ${comparer}${hasWord ? ', with the vnet word' : ''}`;
    test(name, { skip }, async (t) => {
      const stage = await Stage.set(t, chain, comparer, hasWord);
      stage.tell('COLO_USERSPACE_PROXY_INIT');
      await stage.until('n', 1);
      stage.fromWorld(question);
      await stage.until('guest', 1);
      await stage.until('mirror0', 1);
      assert.deepEqual([...stage.frames('guest'), ...stage.frames('mirror0')], [question, question]);
      const wanted: Uint8Array[] = [];
      for (const [at, { primary, secondary }] of TALK.entries()) {
        const isAhead = at % 2 === 1;
        if (isAhead) secondary.forEach((frame) => stage.fromSecondary(frame));
        primary.forEach((frame) => stage.fromPrimary(frame));
        if (!isAhead) secondary.forEach((frame) => stage.fromSecondary(frame));
        wanted.push(...primary);
        await stage.until('wire', wanted.length);
      }
      assert.deepEqual(stage.frames('wire'), wanted);
      assert.equal(stage.frames('n').length, 1, 'nobody has asked for a checkpoint');
      // The two differ: it waits for a checkpoint, and leaves with it.
      stage.fromPrimary(udp('mine'));
      stage.fromSecondary(udp('thine'));
      await stage.until('n', 2);
      assert.equal(Buffer.from(stage.frames('n')[1]!).toString(), 'DO_CHECKPOINT');
      assert.deepEqual(stage.frames('wire'), wanted);
      stage.tell('COLO_CHECKPOINT');
      await stage.until('wire', wanted.length + 1);
      assert.deepEqual(stage.frames('wire').at(-1), udp('mine'));
    });
  }
}
