/**
 * The filter chain against QEMU's: chains of any filters at any places of two netdevs and the hub ports behind them, in
 * any state, that grow and shrink. COLO_FUZZ=N tries N times as many.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { withoutTimes } from './capture.ts';
import { whyNoQemu } from './qemu.ts';
import { udp } from '../../unit/net/frames.ts';
import { execute } from '../../helpers/bare-process.ts';
import { PROGRAMS, Twins } from './twins.ts';

const RUNS = 40 * Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);
const OUTS = ['o0', 'o1', 'o2', 'o3', 'w0', 'w1'] as const;
const INS = ['i0', 'i1', 'j0'] as const;
/** Those with the vnet word. */
const WITH_WORD: readonly string[] = ['w0', 'w1', 'j0'];
const NETDEVS = ['wire', 'guest', 'h0', 'h1'] as const;

const socket = (id: string): string => `-chardev socket,id=${id},path=DIR/${id},server=on,wait=off`;
const LINE = [
  '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire',
  '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest',
  '-netdev hubport,id=h0,hubid=0,netdev=wire -netdev hubport,id=h1,hubid=0,netdev=guest',
  ...[...OUTS, ...INS].map(socket),
].join(' ');
const PLUGS = ['wire', 'guest', ...OUTS, ...INS].map((name) => ({
  name,
  vnetHdrSupport: WITH_WORD.includes(name),
}));

const skip = whyNoQemu();

interface Placed {
  readonly id: string;
  readonly netdev: string;
  readonly kind: string;
  readonly indev?: string;
  readonly outdev?: string;
}

const direction = fc.constantFrom('rx', 'tx', 'all');
/** `pick` chooses among what is there by then. */
const pick = fc.nat({ max: 1000 });
const netdev = fc.oneof({ weight: 3, arbitrary: fc.constant('wire') }, fc.constantFrom(...NETDEVS));
const add = fc.record({
  do: fc.constant('add' as const),
  kind: fc.constantFrom('mirror', 'mirror', 'out', 'in', 'in', 'both', 'rewriter', 'buffer', 'dump'),
  netdev,
  queue: direction,
  status: fc.constantFrom('on', 'on', 'on', 'off'),
  position: fc.constantFrom('head', 'tail', 'default', 'id', 'id'),
  insert: fc.constantFrom('before', 'behind', 'default'),
  pick,
});
const step = fc.oneof(
  { weight: 3, arbitrary: add },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('del' as const), pick }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('status' as const), pick, status: fc.constantFrom('on', 'off') }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('link' as const),
      pick,
      netdev,
      up: fc.constantFrom(true, true, false),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('send' as const),
      pick,
      from: fc.constantFrom('wire', 'guest', 'in'),
    }),
  },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class Script {
  readonly #twins: Twins;
  readonly #placed: Placed[] = [];
  readonly #outs: string[] = [...OUTS];
  readonly #ins: string[] = [...INS];
  #count = 0;

  constructor(twins: Twins) {
    this.#twins = twins;
  }

  async play(step: Step): Promise<void> {
    const chosen = this.#placed[step.pick % Math.max(1, this.#placed.length)];
    switch (step.do) {
      case 'add':
        return this.#add(step);
      case 'del':
        if (chosen) await this.#delete(chosen);
        return;
      case 'status':
        if (chosen) {
          await this.#twins.execute('qom-set', {
            path: `/objects/${chosen.id}`,
            property: 'status',
            value: step.status,
          });
          await this.#twins.rest(`${chosen.kind} ${chosen.id} ${step.status}`);
        }
        return;
      case 'link':
        await this.#twins.execute('set_link', { name: step.netdev, up: step.up });
        return;
      case 'send':
        return this.#send(step.from, step.pick);
    }
  }

  async end(): Promise<void> {
    for (const name of NETDEVS) await this.#twins.execute('set_link', { name, up: true });
    for (const one of [...this.#placed]) await this.#delete(one);
  }

  /** After a failure too: the next chain begins with nothing. */
  async clear(): Promise<void> {
    for (const { id } of this.#placed) await this.#twins.answers(execute('object-del', { id }));
    for (const name of NETDEVS) await this.#twins.answers(execute('set_link', { name, up: true }));
    await this.#twins.rest('the end').catch(() => undefined);
  }

  async #add(step: Extract<Step, { do: 'add' }>): Promise<void> {
    const id = `f${++this.#count}`;
    const usesOut = step.kind === 'mirror' || step.kind === 'out' || step.kind === 'both';
    const usesIn = step.kind === 'in' || step.kind === 'both';
    const isWorded = step.pick % 3 === 0;
    const take = (from: string[]): string | undefined => {
      const at = from.findIndex((name) => WITH_WORD.includes(name) === isWorded);
      return at < 0 ? undefined : from[at];
    };
    const outdev = usesOut ? take(this.#outs) : undefined;
    const indev = usesIn ? take(this.#ins) : undefined;
    if ((usesOut && !outdev) || (usesIn && !indev)) return;
    const near = this.#placed.filter((one) => one.netdev === step.netdev);
    const anchor = near[step.pick % Math.max(1, near.length)];
    const position = step.position === 'id' ? (anchor ? `id=${anchor.id}` : 'head') : step.position;
    await this.#twins.execute('object-add', {
      'qom-type': `filter-${['out', 'in', 'both'].includes(step.kind) ? 'redirector' : step.kind}`,
      id,
      netdev: step.netdev,
      queue: step.queue,
      status: step.status,
      ...(position !== 'default' && { position }),
      ...(step.insert !== 'default' && { insert: step.insert }),
      ...(outdev !== undefined && { outdev }),
      ...(indev !== undefined && { indev }),
      ...(isWorded && step.kind !== 'buffer' && step.kind !== 'dump' && { vnet_hdr_support: true }),
      // Never: what it lets go, it lets go when it is turned off or deleted.
      ...(step.kind === 'buffer' && { interval: 4_000_000_000 }),
      ...(step.kind === 'dump' && { file: `DIR/${id}.pcap`, ...(isWorded && { maxlen: step.pick + 1 }) }),
    });
    this.#placed.push({
      id,
      netdev: step.netdev,
      kind: step.kind,
      ...(outdev !== undefined && { outdev }),
      ...(indev !== undefined && { indev }),
    });
    if (outdev !== undefined) this.#outs.splice(this.#outs.indexOf(outdev), 1);
    if (indev !== undefined) this.#ins.splice(this.#ins.indexOf(indev), 1);
  }

  async #delete(one: Placed): Promise<void> {
    await this.#twins.execute('object-del', { id: one.id });
    await this.#twins.rest(`the end of ${one.kind} ${one.id}`);
    this.#placed.splice(this.#placed.indexOf(one), 1);
    if (one.kind === 'dump') await this.#compareDumps(`${one.id}.pcap`);
    // The chardevs are free again: the next filter that wants one gets these first.
    if (one.outdev !== undefined) this.#outs.unshift(one.outdev);
    if (one.indev !== undefined) this.#ins.unshift(one.indev);
  }

  async #compareDumps(name: string): Promise<void> {
    const [ours, theirs] = PROGRAMS.map((program) => path.join(this.#twins.home(program), name)) as [
      string,
      string,
    ];
    const [written, wanted] = [withoutTimes(await readFile(ours)), withoutTimes(await readFile(theirs))];
    assert.equal(written.toString('hex'), wanted.toString('hex'), name);
  }

  async #send(from: string, pick: number): Promise<void> {
    const ins = this.#placed.flatMap(({ indev }) => (indev === undefined ? [] : [indev]));
    const plug = from === 'in' ? ins[pick % Math.max(1, ins.length)] : from;
    if (plug === undefined) return;
    for (let count = 0; count < 2; count++) {
      const text = `frame ${++this.#count} into ${plug}`;
      this.#twins.send(plug, udp(text), text, WITH_WORD.includes(plug) ? pick % 30 : null);
    }
    await this.#twins.rest(`frame ${this.#count}`);
  }
}

test('chains as in QEMU', { skip }, async (t) => {
  const twins = await Twins.start(t, { line: LINE, plugs: PLUGS });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 8, maxLength: 30 }), async (steps) => {
      const script = new Script(twins);
      try {
        for (const one of steps) await script.play(one);
        await script.end();
      } finally {
        await script.clear();
      }
    }),
    { numRuns: RUNS },
  );
});
