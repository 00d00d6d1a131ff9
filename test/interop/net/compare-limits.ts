/**
 * The cases of docs/compare.md that end a process or a connection, fill a queue or take time: each has a comparer of its
 * own. `run` returns what the table says, in its words.
 */
import { udp } from '../../unit/net/frames.ts';
import type { Bench, BenchOptions, Step } from './compare-bench.ts';
import { textOf } from './compare-bench.ts';
import { Peer, verdictOf } from './compare-cases.ts';

export interface LimitCase {
  readonly name: string;
  readonly options?: BenchOptions;
  readonly run: (bench: Bench) => Promise<string>;
}

/** Enough turns to be read in, if anybody reads at all. */
const MANY_ROUNDS = 50;
const FLOWS = 16_500;
const SMALL_QUEUE: BenchOptions = { maxQueueSize: 4 };
const SHORT_TIMES: BenchOptions = { timeoutMs: 100, scanMs: 100 };

const to = new Peer(1);
const numbers = [1, 2, 3, 4, 5, 6, 7];
const isNext = (frame: Uint8Array): boolean => textOf(frame).includes('next');

/** Whether a datagram of both is released. */
async function isHeard(bench: Bench): Promise<boolean> {
  bench.socketOf('primary').send(to.pUdp('next')[1]);
  bench.socketOf('secondary').send(to.sUdp('next')[1]);
  for (let round = 0; round < MANY_ROUNDS && !bench.outdev.frames.some(isNext); round++)
    await bench.rounds(1);
  return bench.outdev.frames.some(isNext);
}

async function played(bench: Bench, steps: readonly Step[]): Promise<string> {
  return verdictOf(steps, await bench.play(steps));
}

async function asksAtEachScan(bench: Bench, step: Step): Promise<string> {
  bench.socketOf(step[0]).send(step[1]);
  await bench.notify.until(() => bench.requests >= 2, 'two requests');
  return 'asks at each scan';
}

export const LIMIT_CASES: readonly LimitCase[] = [
  {
    name: 'a frame of no bytes, then another',
    run: async (bench) => {
      bench.socketOf('primary').send(new Uint8Array(0));
      try {
        return (await isHeard(bench)) ? 'ignored' : 'deaf';
      } catch (error) {
        if (bench.kind === 'ours') throw error;
        await bench.untilEnded();
        return 'the process ends';
      }
    },
  },
  {
    name: 'a frame of 69632 bytes, of both',
    run: (bench) => {
      const frame = to.ip(253, 'large', { padTo: 69_632 });
      return played(bench, [
        ['primary', frame],
        ['secondary', frame],
      ]);
    },
  },
  {
    name: 'a frame of 69633 bytes, then another on a new connection',
    run: async (bench) => {
      bench.socketOf('primary').send(new Uint8Array(69_633));
      await bench.untilPrimaryFailed();
      await bench.reconnect('primary');
      return (await isHeard(bench)) ? 'the new one is heard' : 'deaf';
    },
  },
  {
    name: 'half a frame, then a whole one on a new connection',
    run: async (bench) => {
      bench.socketOf('primary').sendRaw(Uint8Array.of(0, 0, 0, 99, 1, 2, 3));
      // Nothing tells when half a frame has been read; enough turns have passed then.
      await bench.rounds(MANY_ROUNDS);
      await bench.reconnect('primary');
      return (await isHeard(bench)) ? 'the new one is heard' : 'deaf';
    },
  },
  {
    name: 'seven datagrams of the primary, `max_queue_size` 4',
    options: SMALL_QUEUE,
    run: (bench) =>
      played(
        bench,
        numbers.map((n) => to.pUdp(`d${n}`)),
      ),
  },
  {
    name: 'seven datagrams of the secondary, then of the primary, `max_queue_size` 4',
    options: SMALL_QUEUE,
    run: (bench) =>
      played(bench, [...numbers.map((n) => to.sUdp(`d${n}`)), ...numbers.map((n) => to.pUdp(`d${n}`))]),
  },
  {
    name: `${FLOWS} connections with one datagram each of the primary`,
    run: async (bench) => {
      const primary = bench.socketOf('primary');
      for (let n = 0; n < FLOWS; n++) primary.send(udp('held', { sourcePort: 1024 + n }));
      // Behind it nothing is read any more, so all before it has been.
      primary.send(new Uint8Array(69_633));
      await bench.untilPrimaryFailed();
      const words = [`${FLOWS - (await bench.checkpoint()).length} lost`];
      if (bench.requests > 0) words.push('asks');
      return words.join(', ');
    },
  },
  {
    name: 'a packet of the primary that waits for longer than `compare_timeout`',
    options: SHORT_TIMES,
    run: (bench) => asksAtEachScan(bench, to.pUdp('late')),
  },
  {
    name: 'a packet of the secondary that waits for longer than `compare_timeout`',
    options: SHORT_TIMES,
    run: (bench) => asksAtEachScan(bench, to.sUdp('late')),
  },
  {
    name: '`vnet_hdr_support`: a segment and a datagram of both behind other virtio-net headers',
    options: { hasVnet: true },
    run: (bench) =>
      played(bench, [
        to.p({ seq: 100, ack: 1, payload: 'abc' }),
        to.s({ seq: 100, ack: 1, payload: 'abc' }),
        to.pUdp('abc'),
        to.sUdp('abc'),
      ]),
  },
  {
    name: '`notify_dev`: a word that is none, then the greeting',
    run: async (bench) => {
      const before = bench.notify.frames.length;
      bench.tell('COLO_NONSENSE');
      await bench.rounds(1);
      return `answers ${bench.notify.frames.slice(before).map(textOf).join(' ')}`;
    },
  },
];
