/**
 * One comparer, QEMU's or ours, behind its four sockets, and what it does with a case: frames of both guests, one at a
 * time, and then a checkpoint.
 *
 * Steps are kept apart by a pair of probes on a flow of their own behind each step: when the probe has been released,
 * all that came before it on both sockets has been read, and what was asked for has been written. A checkpoint's flush
 * is over when a greeting behind it on notify_dev has been answered.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { withDeadline } from '../../../src/base/async.ts';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import { ColoCompare } from '../../../src/net/compare/compare.ts';
import type { ColoCompareOptions } from '../../../src/net/compare/options.ts';
import { udp } from '../../unit/net/frames.ts';
import { FrameSocket, Qemu } from './qemu.ts';

export type Kind = 'qemu' | 'ours';
export type Step = readonly ['primary' | 'secondary', Uint8Array];

const PROBE_PORT = 9;
const PROBES = 0x0aff0001;
const PATIENCE_MS = 15_000;
const VNET_BYTES = 12;
const IDS = ['primary_in', 'secondary_in', 'outdev', 'notify_dev'] as const;

/** Properties that both have. Times are such that nothing happens by time unless a case is about it. */
export interface BenchOptions {
  readonly maxQueueSize?: number;
  readonly timeoutMs?: number;
  readonly scanMs?: number;
  /** vnet_hdr_support; frames then have a virtio-net header of 12 bytes, each side its own. */
  readonly hasVnet?: boolean;
}

/** What became of a case's frames. */
export interface Outcome {
  /** What each step released, as hexadecimal text. */
  readonly released: readonly string[][];
  /** Checkpoints asked for. */
  readonly requests: number;
  readonly flushed: readonly string[];
}

interface Running {
  readonly stop: () => Promise<void>;
  /** Resolves when a text has been written there. */
  readonly saidOnStderr: (text: string) => Promise<void>;
}

export class Bench {
  readonly kind: Kind;
  readonly #sockets: [FrameSocket, FrameSocket, FrameSocket, FrameSocket];
  readonly #folder: string;
  readonly #running: Running;
  readonly #hasVnet: boolean;
  #probes = 0;
  #seen = 0;

  private constructor(
    kind: Kind,
    sockets: [FrameSocket, FrameSocket, FrameSocket, FrameSocket],
    folder: string,
    running: Running,
    hasVnet: boolean,
  ) {
    this.#hasVnet = hasVnet;
    this.kind = kind;
    this.#sockets = sockets;
    this.#folder = folder;
    this.#running = running;
  }

  static async make(kind: Kind, options: BenchOptions = {}): Promise<Bench> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-cmp-'));
    const file = (id: string): string => path.join(folder, id);
    const { maxQueueSize = 1024, timeoutMs = 600_000, scanMs = 300_000 } = options;
    const vnetHdrSupport = options.hasVnet ?? false;
    const limits = { compareTimeoutMs: timeoutMs, expiredScanCycleMs: scanMs, maxQueueSize, vnetHdrSupport };
    const running = kind === 'qemu' ? await startQemu(file, limits) : await startOurs(file, limits);
    const sockets: FrameSocket[] = [];
    // What a comparer writes to notify_dev never has the vnet word.
    for (const id of IDS) {
      sockets.push(await FrameSocket.connect(file(id), vnetHdrSupport && id !== 'notify_dev'));
    }
    const four = sockets as [FrameSocket, FrameSocket, FrameSocket, FrameSocket];
    const bench = new Bench(kind, four, folder, running, vnetHdrSupport);
    await bench.#settle();
    return bench;
  }

  get notify(): FrameSocket {
    return this.#sockets[3];
  }

  get outdev(): FrameSocket {
    return this.#sockets[2];
  }

  /** All connections have gone, with the process. */
  async untilEnded(): Promise<void> {
    const all = Promise.all(this.#sockets.map(({ closed }) => closed));
    await withDeadline(all, PATIENCE_MS, `the end of ${this.kind}`);
  }

  get requests(): number {
    return this.notify.frames.filter((frame) => textOf(frame) === 'DO_CHECKPOINT').length;
  }

  socketOf(side: Step[0]): FrameSocket {
    return this.#sockets[side === 'primary' ? 0 : 1];
  }

  /** Gives a case's frames, then takes a checkpoint. */
  async play(steps: readonly Step[]): Promise<Outcome> {
    const before = this.requests;
    const released: string[][] = [];
    for (const step of steps) released.push(await this.step(step));
    const requests = this.requests - before;
    return { released, requests, flushed: await this.checkpoint() };
  }

  /** Gives one frame and returns what is released by it. */
  async step([side, frame]: Step): Promise<string[]> {
    this.#give(side, frame);
    return this.settled();
  }

  /** A word on notify_dev. */
  tell(word: string): void {
    this.notify.send(Buffer.from(word), this.#hasVnet ? 0 : null);
  }

  /** What has been released when all that was given has been read. */
  async settled(): Promise<string[]> {
    const probe = udp(`probe ${++this.#probes}`, { destination: PROBES, sourcePort: PROBE_PORT });
    for (const side of ['primary', 'secondary'] as const) this.#give(side, probe);
    const isProbe = (bytes: Uint8Array): boolean => Buffer.from(this.#plain(bytes)).equals(probe);
    await this.#until(isProbe, `the probe ${this.#probes}`);
    await inBetween();
    return this.#fresh(isProbe);
  }

  /** Says that a checkpoint was taken and returns what that releases. */
  async checkpoint(): Promise<string[]> {
    this.tell('COLO_CHECKPOINT');
    let count: number;
    do {
      count = this.outdev.frames.length;
      await this.rounds(3);
    } while (this.outdev.frames.length > count);
    return this.#fresh(() => false);
  }

  /** Greetings on notify_dev, each answered: the comparer has had as many turns to read all of its sockets. */
  async rounds(turns: number): Promise<void> {
    for (let turn = 0; turn < turns; turn++) {
      const wanted = this.#greetings() + 1;
      this.tell('COLO_USERSPACE_PROXY_INIT');
      await this.notify.until(() => this.#greetings() >= wanted, `a greeting of ${this.kind}`);
      await inBetween();
    }
  }

  /** A new connection in place of the old one. */
  async reconnect(side: Step[0]): Promise<void> {
    const at = side === 'primary' ? 0 : 1;
    this.#sockets[at].close();
    await this.#sockets[at].closed;
    this.#sockets[at] = await FrameSocket.connect(path.join(this.#folder, IDS[at]));
  }

  /** The comparer has found out that what comes from the primary is not frames. */
  async untilPrimaryFailed(): Promise<void> {
    if (this.kind === 'ours') await withDeadline(this.#sockets[0].closed, PATIENCE_MS, 'the disconnection');
    else await this.#running.saidOnStderr('primary_in error');
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.close();
    await this.#running.stop();
    await rm(this.#folder, { recursive: true });
  }

  /**
   * A connect ends in the kernel; QEMU accepts later, and what it releases before outdev's turn is lost. So ask until an
   * answer comes, then let the rest of the questions pass.
   */
  async #settle(): Promise<void> {
    const question = udp('ready?', { destination: PROBES, sourcePort: PROBE_PORT - 1 });
    const ask = (): void => {
      for (const side of ['primary', 'secondary'] as const) this.#give(side, question);
    };
    ask();
    const timer = setInterval(ask, 20);
    try {
      await this.outdev.until((frames) => frames.length > 0, 'the first frame');
    } finally {
      clearInterval(timer);
    }
    await this.rounds(1);
    await this.settled();
    this.#seen = this.outdev.frames.length;
  }

  #give(side: Step[0], frame: Uint8Array): void {
    const header = Buffer.alloc(VNET_BYTES, side === 'primary' ? 0 : 0x5a);
    if (this.#hasVnet) this.socketOf(side).send(Buffer.concat([header, frame]), VNET_BYTES);
    else this.socketOf(side).send(frame);
  }

  /** A released frame as it was given. */
  #plain(frame: Uint8Array): Uint8Array {
    return this.#hasVnet ? frame.subarray(VNET_BYTES) : frame;
  }

  #greetings(): number {
    return this.notify.frames.filter((frame) => textOf(frame) === 'COLO_COMPARE_GET_XEN_INIT').length;
  }

  async #until(isIt: (frame: Uint8Array) => boolean, what: string): Promise<void> {
    // Only what is new can be it: cases are many.
    let looked = this.#seen;
    await this.outdev.until((frames) => {
      for (; looked < frames.length; looked++) if (isIt(frames[looked]!)) return true;
      return false;
    }, `${what} of ${this.kind}`);
  }

  #fresh(isOurs: (frame: Uint8Array) => boolean): string[] {
    const frames = this.outdev.frames.slice(this.#seen);
    this.#seen += frames.length;
    return frames.filter((frame) => !isOurs(frame)).map((frame) => hexOf(this.#plain(frame)));
  }
}

/** What was written before something else that has been read is read in this turn of the loop or the next. */
async function inBetween(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
}

export const hexOf = (frame: Uint8Array): string => Buffer.from(frame).toString('hex');
export const textOf = (frame: Uint8Array): string => Buffer.from(frame).toString('latin1');

type Limits = Required<
  Pick<ColoCompareOptions, 'compareTimeoutMs' | 'expiredScanCycleMs' | 'maxQueueSize' | 'vnetHdrSupport'>
>;

async function startQemu(file: (id: string) => string, limits: Limits): Promise<Running> {
  const properties = [
    ...IDS.map((id) => `${id}=${id}`),
    `compare_timeout=${limits.compareTimeoutMs}`,
    `expired_scan_cycle=${limits.expiredScanCycleMs}`,
    `max_queue_size=${limits.maxQueueSize}`,
    `vnet_hdr_support=${limits.vnetHdrSupport ? 'on' : 'off'}`,
  ];
  const qemu = await Qemu.start([
    ...IDS.flatMap((id) => ['-chardev', `socket,id=${id},path=${file(id)},server=on,wait=off`]),
    ...['-object', 'iothread,id=io'],
    ...['-object', `colo-compare,id=c,iothread=io,${properties.join(',')}`],
  ]);
  return { stop: () => qemu.stop(), saidOnStderr: (text) => qemu.said(text) };
}

async function startOurs(file: (id: string) => string, limits: Limits): Promise<Running> {
  const chardevs = IDS.map(
    (id) =>
      new SocketChardev({
        backend: 'socket',
        id,
        address: { type: 'unix', path: file(id) },
        server: true,
        wait: false,
        nodelay: true,
        reconnectMs: 0,
      }),
  );
  for (const chardev of chardevs) await chardev.open();
  const [primaryIn, secondaryIn, outdev, notifyDev] = chardevs as [
    SocketChardev,
    SocketChardev,
    SocketChardev,
    SocketChardev,
  ];
  const compare = new ColoCompare('c', { primaryIn, secondaryIn, outdev, notifyDev, ...limits });
  return {
    stop: async () => {
      compare.close();
      for (const chardev of chardevs) await chardev.close();
    },
    saidOnStderr: () => Promise.reject(new Error('it is in this process')),
  };
}
