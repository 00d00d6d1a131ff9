/** The first state of a large guest: rounds in pieces, which the other side puts in their places as they come. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CheckpointChannel } from '../../../src/checkpoint/channel.ts';
import { receiveMachine, sendMachine } from '../../../src/checkpoint/migration.ts';
import type { MigrationProgress } from '../../../src/checkpoint/migration.ts';
import type { CaptureOptions, Snapshot } from '../../../src/engine/engine.ts';
import { RamFile, RamSnapshots } from '../../../src/engine/ram/index.ts';
import { MemoryEngine } from '../../helpers/memory-engine.ts';
import { socketPair } from '../../helpers/socket-pair.ts';
import { hello, side } from './frame-pair.ts';
import type { Side } from './frame-pair.ts';

const PAGE = 4096;
const PAGES = 1024;
/** What these engines send at most, so that a small guest has several pieces. */
const PIECE_PAGES = 256;

/** A MemoryEngine whose RAM is a RamFile. */
class SharedEngine extends MemoryEngine {
  readonly file: RamFile;
  readonly snapshots: RamSnapshots;
  readonly captured: { full: boolean; pages: number }[] = [];
  staged = 0;
  loaded = 0;
  /** Called after each capture, as a guest that runs. */
  onCapture: () => void = () => undefined;
  isEndless = false;

  private constructor(file: RamFile, snapshots: RamSnapshots) {
    super(PAGES);
    this.file = file;
    this.snapshots = snapshots;
  }

  static async open(name: string): Promise<SharedEngine> {
    const file = RamFile.create(name, PAGES * PAGE);
    return new SharedEngine(file, await RamSnapshots.open(file, 0));
  }

  override async capture({ full, ramOnly, maxPages }: CaptureOptions): Promise<Snapshot> {
    const options = maxPages === undefined ? { full } : { full, maxPages: Math.min(maxPages, PIECE_PAGES) };
    const { ram, pages, more } = await this.snapshots.capture(options);
    this.captured.push({ full, pages });
    this.onCapture();
    return { ram, pages, device: new Uint8Array(ramOnly ? 0 : 4), more: more || this.isEndless };
  }

  async stage({ ram }: Snapshot): Promise<void> {
    this.staged++;
    await this.snapshots.stage(this.snapshots.check([ram]));
  }

  override async load(snapshots: readonly Snapshot[]): Promise<void> {
    this.loaded += snapshots.length;
    await this.snapshots.load(this.snapshots.check(snapshots.map(({ ram }) => ram)));
  }

  async close(): Promise<void> {
    await this.snapshots.close();
    this.file.close();
  }
}

async function withPair(
  act: (pair: {
    p: SharedEngine;
    s: SharedEngine;
    progress: MigrationProgress[];
    move: () => Promise<[unknown, unknown]>;
  }) => Promise<void>,
): Promise<void> {
  const lines: string[] = [];
  const sockets = await socketPair();
  const [p, s] = [await SharedEngine.open('p'), await SharedEngine.open('s')];
  const sideOf = (engine: SharedEngine): Side => {
    const made = side(lines);
    const guest = { ...made.guest, engine, pause: () => engine.pause(), resume: () => engine.resume() };
    return { ...made, engine, guest };
  };
  const progress: MigrationProgress[] = [];
  const move = async (): Promise<[unknown, unknown]> => {
    const failure = (error: unknown): unknown => error;
    return await Promise.all([
      sendMachine(
        sideOf(p).guest,
        new CheckpointChannel(sockets.left, { patienceMs: 2000 }),
        hello(p),
        (round) => progress.push(round),
      ).catch(failure),
      receiveMachine(sideOf(s).guest, new CheckpointChannel(sockets.right, { patienceMs: 2000 }), () =>
        hello(s),
      )
        .catch(failure)
        .finally(() => sockets.right.end()),
    ]);
  };
  try {
    await act({ p, s, progress, move });
  } finally {
    sockets.close();
    await p.close();
    await s.close();
  }
}

test('a guest that runs travels in pieces, and arrives whole', async () => {
  await withPair(async ({ p, s, progress, move }) => {
    p.state = 'running';
    p.file.bytes.fill(1);
    s.file.bytes.fill(2, 0, 10 * PAGE);
    let writes = 0;
    p.onCapture = () => {
      if (p.state !== 'running') return;
      p.file.bytes[(writes++ % PAGES) * PAGE] = 7;
      p.file.bytes[(PAGES - 1) * PAGE] = writes;
    };
    await move();
    assert.ok(s.file.bytes.equals(p.file.bytes));
    const pieces = p.captured.slice(0, 4);
    assert.deepEqual(
      pieces.map(({ full, pages }) => [full, pages]),
      [
        [true, PIECE_PAGES],
        [false, PIECE_PAGES],
        [false, PIECE_PAGES],
        [false, PIECE_PAGES],
      ],
    );
    assert.equal(progress[0]?.pages, PAGES, 'a round is the sum of its pieces');
    assert.equal(s.staged, p.captured.length - 1);
    assert.equal(s.loaded, 1, 'the last state alone waits for the load');
  });
});

test('pieces without end are refused, and the guest there is as it was', async () => {
  await withPair(async ({ p, s, move }) => {
    p.state = 'running';
    p.isEndless = true;
    p.file.bytes.fill(1, 0, PAGE);
    s.file.bytes.fill(2, 0, PAGE);
    const [, error] = await move();
    assert.match(String(error), /unexpected message ram-round before the first state/);
    assert.ok(s.staged <= 10);
    assert.equal(s.file.bytes[0], 2);
  });
});
