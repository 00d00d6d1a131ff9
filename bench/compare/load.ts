/**
 * The load of bench/compare.ts, in a process of its own so that it shares no event loop with what is measured: the same
 * frames of TCP segments to `primary_in` and `secondary_in`, and what comes out of `outdev` compared with them byte by
 * byte. All frames lie ready, framed, in one ring; only sequence numbers change from lap to lap. At most `window` frames
 * are under way, so that neither side's queues overflow. Which of the two twins is written first changes from batch to
 * batch. Talks to its parent with messages (LoadRequest, LoadReply).
 */
import { once } from 'node:events';
import net from 'node:net';
import { IDENTIFICATION_AT, arp, buildFrame, numberFrame } from './frames.ts';

export interface LoadRequest {
  readonly folder: string;
  readonly frameBytes: number;
  readonly flows: number;
  /** Runs one after the other on one connection: `rate` frames a second, or as fast as it goes. */
  readonly runs: readonly { readonly seconds?: number; readonly frames?: number; readonly rate?: number }[];
}

export interface LoadResult {
  readonly frames: number;
  readonly seconds: number;
  /** Times that another frame came out than the next one (QEMU turns the order round when a write blocks). */
  readonly outOfOrder: number;
  /** From writing the later twin to reading the released frame, with `rate` only. */
  readonly latencyUs?: { readonly p50: number; readonly p99: number; readonly max: number };
}

/** Sent when a run begins, and at the end. */
export type LoadReply =
  { readonly begins: number } | { readonly results: readonly LoadResult[] } | { readonly error: string };

const WINDOW_FRAMES = 800;
const RING_FRAMES = 1_000;
/** Frames of one write; divides the ring. Larger frames go in smaller batches. */
const BATCHES = [250, 200, 125, 100, 50, 40, 25] as const;
const BATCH_BYTES = 64 * 1024;
const STALL_MS = 10_000;
/** Between two turns of a process that is not kept from running there are a tenth of it. */
const PAUSE_MS = 0.5;

class Load {
  readonly #frameBytes: number;
  /** With the length in front. */
  readonly #stride: number;
  readonly #flows: number;
  readonly #ring: Buffer;
  readonly #sentAt = new Float64Array(RING_FRAMES);
  readonly #batch: number;
  #primary!: net.Socket;
  #secondary!: net.Socket;
  /** Frames and bytes since the connection was made. */
  #sent = 0;
  #received = 0;
  /** The frame that comes out next if order is kept; how often another one came. */
  #next = 0;
  #outOfOrder = 0;
  readonly #isUnderWay = new Uint8Array(RING_FRAMES);
  readonly #memory = Buffer.alloc(256 * 1024);
  /** Bytes at the start of `#memory`: a frame that is not whole yet. */
  #carried = 0;
  #isPrimaryFirst = true;
  #onProgress: () => void = () => undefined;
  #fault: string | null = null;
  /** Latencies in microseconds, counted; null while nobody asks. */
  #histogram: Uint32Array | null = null;

  constructor({ frameBytes, flows }: LoadRequest) {
    this.#frameBytes = frameBytes;
    this.#stride = frameBytes + 4;
    this.#flows = flows;
    this.#batch = BATCHES.find((count) => count * this.#stride <= BATCH_BYTES) ?? 25;
    this.#ring = Buffer.alloc(RING_FRAMES * this.#stride);
    for (let index = 0; index < RING_FRAMES; index++) {
      buildFrame(this.#ring.subarray(index * this.#stride, (index + 1) * this.#stride), index, index % flows);
    }
  }

  async connect(folder: string): Promise<void> {
    [this.#primary, this.#secondary] = [await connect(`${folder}/p`), await connect(`${folder}/s`)];
    // A connect ends in the kernel; what is released before outdev's client is accepted is lost. So ask until an answer
    // comes, then let the rest of the answers pass.
    const question = arp(1);
    const last = arp(2);
    const say = (frame: Buffer): void => {
      for (const side of [this.#primary, this.#secondary]) side.write(frame);
    };
    let seen = Buffer.alloc(0);
    let isAsked = false;
    let isSettled = false;
    const settled = new Promise<void>((resolve) => {
      const ask = setInterval(() => say(question), 20);
      const out = net.connect({
        path: `${folder}/o`,
        onread: {
          buffer: () => this.#memory.subarray(this.#carried),
          callback: (count) => {
            if (isSettled) this.#take(count);
            else {
              seen = Buffer.concat([seen, this.#memory.subarray(0, count)]);
              if (!isAsked) say(last);
              isAsked = true;
              clearInterval(ask);
              isSettled = seen.subarray(-last.length).equals(last);
              if (isSettled) resolve();
            }
            return true;
          },
        },
      });
      out.on('close', () => this.#fail('the device has closed its outdev'));
    });
    const patience = setTimeout(() => {
      throw new Error('the device says nothing');
    }, STALL_MS);
    await settled;
    clearTimeout(patience);
  }

  /** As fast as it goes, for a time or for a number of frames. */
  async saturate(seconds: number, frames: number): Promise<LoadResult> {
    const from = this.#sent;
    const disorderFrom = this.#outOfOrder;
    const start = performance.now();
    const isOver = (): boolean => this.#sent - from >= frames || performance.now() - start >= seconds * 1000;
    let isEnding = false;
    await this.#until((done) => {
      isEnding ||= isOver();
      while (!isEnding && this.#hasRoom(this.#batch)) {
        this.#send(this.#batch);
        isEnding = isOver();
      }
      if (isEnding && this.#sent === this.#received) done();
    });
    const outOfOrder = this.#outOfOrder - disorderFrom;
    return { frames: this.#sent - from, seconds: (performance.now() - start) / 1000, outOfOrder };
  }

  /** At `rate` frames a second; what a pause of this process has left out is not made up for, as that would be a burst. */
  async paced(seconds: number, rate: number): Promise<LoadResult> {
    const histogram = new Uint32Array(1_000_000);
    this.#histogram = histogram;
    const from = this.#sent;
    const disorderFrom = this.#outOfOrder;
    const start = performance.now();
    let isEnding = false;
    let lastTurn = start;
    let pausedMs = 0;
    await this.#until((done) => {
      const turn = (): void => {
        const now = performance.now();
        // The device's pauses are no pauses here: turns follow one another while the window is full.
        if (now - lastTurn > PAUSE_MS) pausedMs += now - lastTurn;
        lastTurn = now;
        isEnding ||= now - start >= seconds * 1000;
        const due = Math.floor(((now - start - pausedMs) / 1000) * rate) - (this.#sent - from);
        const count = Math.min(due, this.#batch);
        if (!isEnding && count > 0 && this.#hasRoom(count)) this.#send(count);
        if (this.#fault !== null) return;
        if (isEnding && this.#sent === this.#received) done();
        else setImmediate(turn);
      };
      turn();
    }, false);
    const frames = this.#sent - from;
    const elapsed = (performance.now() - start) / 1000;
    this.#histogram = null;
    const at = (share: number): number => {
      let left = frames * share;
      const index = histogram.findIndex((count) => (left -= count) <= 0);
      return index < 0 ? histogram.length : index;
    };
    const outOfOrder = this.#outOfOrder - disorderFrom;
    return { frames, seconds: elapsed, outOfOrder, latencyUs: { p50: at(0.5), p99: at(0.99), max: at(1) } };
  }

  close(): void {
    this.#onProgress = () => undefined;
    for (const socket of [this.#primary, this.#secondary]) socket.destroy();
  }

  /** Calls `step` at once and (unless it goes on by itself) at each progress, until it says that it is done. */
  #until(step: (done: () => void) => void, isDriven = true): Promise<void> {
    return new Promise((resolve, reject) => {
      let seen = this.#received;
      const finish = (): void => {
        clearInterval(watch);
        this.#onProgress = () => undefined;
        if (this.#fault === null) resolve();
        else reject(new Error(this.#fault));
      };
      const watch = setInterval(() => {
        if (seen === this.#received) {
          this.#fault ??= `nothing came for ${STALL_MS / 1000} s: ${this.#received} of ${this.#sent} frames`;
        }
        seen = this.#received;
        if (this.#fault !== null) finish();
      }, STALL_MS);
      const go = (): void => (this.#fault === null ? step(finish) : finish());
      this.#onProgress = isDriven ? go : () => this.#fault !== null && finish();
      go();
    });
  }

  /** For the next `count`: the window, and the ring, where one that QEMU has left behind may still wait. */
  #hasRoom(count: number): boolean {
    if (this.#sent - this.#received + count > WINDOW_FRAMES) return false;
    const first = this.#sent % RING_FRAMES;
    const last = Math.min(RING_FRAMES, first + count);
    for (let index = first; index < last; index++) if (this.#isUnderWay[index] === 1) return false;
    return true;
  }

  /** The next `count` frames, or up to the end of the ring, to both sides. */
  #send(count: number): void {
    const first = this.#sent % RING_FRAMES;
    const last = Math.min(RING_FRAMES, first + count);
    const lap = Math.floor(this.#sent / RING_FRAMES);
    for (let index = first; index < last; index++) {
      const round = Math.floor((lap * RING_FRAMES + index) / this.#flows);
      numberFrame(this.#ring, index * this.#stride, this.#frameBytes, round);
    }
    this.#isUnderWay.fill(1, first, last);
    const bytes = this.#ring.subarray(first * this.#stride, last * this.#stride);
    const sides = this.#isPrimaryFirst ? [this.#primary, this.#secondary] : [this.#secondary, this.#primary];
    this.#isPrimaryFirst = !this.#isPrimaryFirst;
    sides[0]!.write(bytes);
    if (this.#histogram) this.#sentAt.fill(performance.now(), first, last);
    sides[1]!.write(bytes);
    this.#sent += last - first;
  }

  /** What comes out must be what went in, each frame once. QEMU's order is its own. */
  #take(count: number): void {
    const [memory, ring, stride] = [this.#memory, this.#ring, this.#stride];
    const end = this.#carried + count;
    const now = this.#histogram ? performance.now() : 0;
    let at = 0;
    while (end - at >= stride) {
      const first = memory.readUInt16BE(at + IDENTIFICATION_AT);
      if (first >= RING_FRAMES) {
        this.#fail(`after ${this.#received} frames came something else`);
        return;
      }
      const from = first * stride;
      let frames = Math.min(Math.floor((end - at) / stride), RING_FRAMES - first);
      if (ring.compare(memory, at, at + frames * stride, from, from + frames * stride) !== 0) {
        frames = 1;
        if (ring.compare(memory, at, at + stride, from, from + stride) !== 0) {
          this.#fail(`after ${this.#received} frames one came out changed`);
          return;
        }
      }
      for (let index = first; index < first + frames; index++) {
        if (this.#isUnderWay[index] !== 1) {
          this.#fail(`after ${this.#received} frames one came out twice`);
          return;
        }
        this.#isUnderWay[index] = 0;
        if (this.#histogram) {
          const us = Math.round((now - this.#sentAt[index]!) * 1000);
          this.#histogram[Math.min(us, this.#histogram.length - 1)]!++;
        }
      }
      if (first !== this.#next) this.#outOfOrder++;
      this.#next = (first + frames) % RING_FRAMES;
      this.#received += frames;
      at += frames * stride;
    }
    memory.copyWithin(0, at, end);
    this.#carried = end - at;
    this.#onProgress();
  }

  #fail(what: string): void {
    this.#fault ??= what;
    this.#onProgress();
  }
}

async function connect(path: string): Promise<net.Socket> {
  const socket = net.connect(path);
  await once(socket, 'connect');
  socket.resume();
  return socket;
}

process.once('message', (request: LoadRequest) => {
  const run = async (): Promise<LoadReply> => {
    const load = new Load(request);
    await load.connect(request.folder);
    const results: LoadResult[] = [];
    for (const { seconds = Infinity, frames = Infinity, rate } of request.runs) {
      process.send?.({ begins: results.length } satisfies LoadReply);
      results.push(
        rate === undefined ? await load.saturate(seconds, frames) : await load.paced(seconds, rate),
      );
    }
    load.close();
    return { results };
  };
  run()
    .catch((error: unknown): LoadReply => ({ error: error instanceof Error ? error.message : String(error) }))
    .then(
      (reply) => process.send?.(reply, () => process.exit()),
      () => process.exit(1),
    );
});
