/** What goes wrong at the worst moment: each wait of the dialogue broken off, by a death, a freeze or a command. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { socketPair, tappedPair } from '../../helpers/socket-pair.ts';
import { standStill } from '../../helpers/stand-still.ts';
import type { Pair } from './frame-pair.ts';
import { end, protect } from './frame-pair.ts';

const SOON_MS = 20_000;
/** Longer than any test: a wait that ends did so because it was broken off. */
const ENDLESS_MS = 3_600_000;

/** What every failover of a primary owes: the guest runs, nothing is held, and the manager was told once. */
function assertAlone(pair: Pair): void {
  assert.equal(pair.p.engine.state, 'running');
  assert.ok(pair.lines.includes('primary net stop failover'), pair.lines.join(' / '));
  assert.ok(pair.lines.includes('primary disk stop failover'));
  assert.equal(pair.exits.filter((exit) => exit.startsWith('primary')).length, 1);
}

const turns = async (count: number): Promise<void> => {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
};

describe('COLO primary in adversity', () => {
  it('goes on alone whatever it waits for', async (t) => {
    // Bytes of the dialogue that still reach the secondary before it freezes: none; the request; half of the state.
    for (const [name, passed] of [
      ['the reply', 0],
      ['the state to be received', 4],
      ['the rest of the state to be taken', 3000],
    ] as const) {
      await t.test(`for ${name}`, async () => {
        let left = Infinity;
        const pair = await protect(
          await tappedPair((chunk) => {
            const part = chunk.subarray(0, Math.min(chunk.byteLength, left));
            left -= part.byteLength;
            return part;
          }),
          { patienceMs: ENDLESS_MS },
        );
        left = passed;
        pair.p.engine.ram.fill(3);
        pair.primary.request('mismatch');
        await turns(20);
        assert.deepEqual(pair.exits, []);
        await withDeadline(pair.primary.failover(), SOON_MS, 'failover');
        assertAlone(pair);
        await end(pair);
      });
    }

    await t.test('for the state to be loaded', async () => {
      const pair = await protect(await socketPair(), { patienceMs: ENDLESS_MS });
      const load = new Deferred<void>();
      pair.s.engine.load = () => load.promise;
      pair.lines.length = 0;
      const committed = new Promise<void>((resolve) => {
        pair.p.net.onVerb = (what) => {
          if (what === 'primary commit') resolve();
        };
      });
      pair.primary.request('mismatch');
      await committed;
      await withDeadline(pair.primary.failover(), SOON_MS, 'failover');
      assertAlone(pair);
      assert.ok(!pair.lines.includes('primary disk commit'), 'the gate was not opened by a checkpoint');
      load.resolve();
      await end(pair);
    });

    await t.test('for a guest whose write waits for the secondary', async () => {
      const pair = await protect(await socketPair(), { patienceMs: ENDLESS_MS });
      // The engine stands still only when the write has ended, and that waits for replication's gate.
      const gate = new Deferred<void>();
      const pause = pair.p.guest.pause.bind(pair.p.guest);
      pair.p.guest.pause = async () => {
        await gate.promise;
        await pause();
      };
      pair.p.disk.onVerb = (what) => {
        if (what === 'primary stop failover') gate.resolve();
      };
      await withDeadline(pair.primary.failover(), SOON_MS, 'failover');
      assertAlone(pair);
      await end(pair);
    });

    await t.test('for the secondary to be ready', async () => {
      const never = new Deferred<void>();
      const starting = new Deferred<void>();
      const made = protect(await socketPair(), {
        patienceMs: ENDLESS_MS,
        prepare: (_p, s) => {
          s.disk.onVerb = (what) => {
            if (what !== 'secondary start') return undefined;
            starting.resolve();
            return never.promise;
          };
        },
        onMade: (pair) =>
          void starting.promise.then(() => pair.primary.failover()).then(() => never.resolve()),
      });
      const pair = await withDeadline(made, SOON_MS, 'failover');
      await pair.primary.ended;
      assert.ok(pair.lines.includes('primary net stop failover'));
      assert.equal(pair.p.engine.state, 'running');
      await end(pair);
    });
  });

  it('lets go of what it held when the failover comes long after the loop gave up', async () => {
    const sockets = await socketPair();
    const pair = await protect(sockets);
    sockets.right.destroy();
    await pair.primary.ended;
    assert.ok(pair.lines.includes('primary net stop error'));
    assert.ok(!pair.lines.includes('primary net stop failover'));
    await pair.primary.failover();
    assertAlone(pair);
    assert.deepEqual(
      pair.exits.filter((exit) => exit.startsWith('primary')),
      ['primary error'],
    );
    await end(pair);
  });

  it('holds its output when the secondary dies between receiving and loading', async () => {
    const sockets = await socketPair();
    const pair = await protect(sockets);
    pair.lines.length = 0;
    const load = new Deferred<void>();
    pair.s.engine.load = () => load.promise;
    pair.p.net.onVerb = (what) => {
      if (what === 'primary commit') sockets.right.destroy();
    };
    pair.primary.request('mismatch');
    await pair.primary.ended;
    load.resolve();
    assert.ok(pair.lines.includes('primary net commit'));
    assert.ok(!pair.lines.includes('primary disk commit'));
    assert.ok(pair.lines.includes('primary net stop error'));
    assert.equal(pair.p.engine.state, 'running');
    await end(pair);
  });

  it('takes checkpoints on and on without a pause between them', async () => {
    const sockets = await socketPair();
    const pair = await protect(sockets, { delayMs: 0 });
    await withDeadline(pair.checkpoints(3), SOON_MS, 'checkpoints');
    const listeners = (): number[] =>
      [sockets.left, sockets.right].flatMap((socket) =>
        ['data', 'drain', 'error', 'end', 'close'].map((name) => socket.listenerCount(name)),
      );
    const before = listeners();
    await withDeadline(pair.checkpoints(100), SOON_MS, 'checkpoints');
    assert.deepEqual(listeners(), before);
    await end(pair);
  });

  it('keeps its timer when it runs out during a checkpoint', async () => {
    const pair = await protect(await socketPair(), { delayMs: 1 });
    // The secondary takes longer to reply than the timer runs.
    const pause = pair.s.guest.pause.bind(pair.s.guest);
    pair.s.guest.pause = async () => {
      await new Promise((resolve) => setTimeout(resolve, 15));
      await pause();
    };
    await withDeadline(pair.checkpoints(4), SOON_MS, 'checkpoints');
    await end(pair);
  });

  it('merges a storm of requests', async () => {
    const pair = await protect(await socketPair());
    const taken = pair.checkpoints(1);
    for (let at = 0; at < 10_000; at++) pair.primary.request('mismatch');
    await taken;
    await turns(20);
    assert.equal(pair.records.length, 1);
    await end(pair);
  });

  it('takes the longest delay there is for what it is', async () => {
    const warnings: string[] = [];
    const note = (warning: Error): number => warnings.push(warning.name);
    process.on('warning', note);
    const pair = await protect(await socketPair());
    pair.primary.setDelay(0xffffffff);
    await withDeadline(pair.checkpoints(1), SOON_MS, 'the checkpoint that a change asks for');
    await pair.checkpoint();
    await turns(5);
    process.off('warning', note);
    assert.deepEqual(warnings, []);
    assert.equal(pair.records.length, 2);
    await end(pair);
  });

  it('sets no timer once it has ended', async () => {
    const pair = await protect(await socketPair());
    await end(pair);
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    pair.primary.request('mismatch');
    pair.primary.setDelay(10);
    assert.equal(timers(), before);
  });
});

describe('COLO secondary in adversity', () => {
  it('finishes a load that has begun before it takes over', async () => {
    const pair = await protect(await socketPair());
    pair.p.engine.device = 9;
    const load = pair.s.engine.load.bind(pair.s.engine);
    const [begun, go] = [new Deferred<void>(), new Deferred<void>()];
    pair.s.engine.load = async (snapshots) => {
      begun.resolve();
      await go.promise;
      await load(snapshots);
    };
    pair.primary.request('mismatch');
    await begun.promise;
    const failover = pair.secondary.failover();
    await turns(5);
    assert.ok(!pair.lines.includes('secondary disk stop failover'), 'it waits for the load');
    go.resolve();
    await withDeadline(failover, SOON_MS, 'failover');
    assert.equal(pair.s.engine.device, 9);
    const at = (line: string): number => pair.lines.lastIndexOf(line);
    assert.ok(at('secondary disk commit') < at('secondary disk stop failover'));
    assert.equal(pair.s.engine.state, 'paused', 'the caller lets it run');
    await end(pair);
  });

  it('takes over from its previous state while the primary is frozen in the middle of a checkpoint', async () => {
    let left = Infinity;
    const pair = await protect(
      await tappedPair((chunk) => {
        const part = chunk.subarray(0, Math.min(chunk.byteLength, left));
        left -= part.byteLength;
        return part;
      }),
      { patienceMs: ENDLESS_MS },
    );
    pair.p.engine.ram.fill(0xcc);
    left = 2000;
    const kept = pair.s.engine.ram.slice();
    const stopped = new Promise<void>((resolve) => {
      const pause = pair.s.guest.pause.bind(pair.s.guest);
      pair.s.guest.pause = async () => {
        await pause();
        resolve();
      };
    });
    pair.primary.request('mismatch');
    await stopped;
    await turns(10);
    await withDeadline(pair.secondary.failover(), SOON_MS, 'failover');
    assert.deepEqual(pair.s.engine.ram, kept);
    assert.equal(pair.s.engine.device, 1);
    await end(pair);
  });

  it('refuses to take over when its disk could not follow the loaded state, and tells the primary', async () => {
    const pair = await protect(await socketPair());
    pair.s.disk.failing.add('secondary commit');
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.match(String(pair.errors.find((error) => error !== null)), /secondary commit failed/);
    assert.equal(pair.secondary.isTorn, true);
    assert.notEqual(pair.s.engine.state, 'running');
    await assert.rejects(pair.secondary.failover(), /no whole state/);
    await assert.rejects(pair.secondary.failover(), /no whole state/, 'and again');
    assert.equal(pair.p.engine.state, 'running');
    await end(pair);
  });

  it('refuses to take over when protection could not begin', async () => {
    const pair = await protect(await socketPair(), {
      prepare: (_p, s) => s.disk.failing.add('secondary start'),
    });
    await pair.secondary.ended;
    await assert.rejects(pair.secondary.failover(), /no whole state.*secondary start failed/);
    assert.notEqual(pair.s.engine.state, 'running');
    await end(pair);
  });

  it('says no to a checkpoint that its disk cannot carry, and keeps its state', async () => {
    const pair = await protect(await socketPair());
    const kept = pair.s.engine.ram.slice();
    pair.p.engine.ram.fill(0x11);
    pair.s.disk.failure = new Error('copy before write failed');
    pair.lines.length = 0;
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.ok(!pair.lines.includes('primary net commit'), 'nothing was released');
    assert.deepEqual(pair.s.engine.ram, kept);
    assert.match(String(pair.errors.find((error) => error !== null)), /copy before write failed/);
    await end(pair);
  });

  it('says no to a checkpoint that its engine cannot take, keeps its state, and can take over', async () => {
    const pair = await protect(await socketPair());
    const kept = pair.s.engine.ram.slice();
    pair.p.engine.ram.fill(0x11);
    Object.assign(pair.s.engine, {
      prepareLoad: () => Promise.reject(new Error('no QEMU waits to take it')),
    });
    pair.lines.length = 0;
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.ok(!pair.lines.includes('primary net commit'), 'nothing was released');
    assert.deepEqual(pair.s.engine.ram, kept);
    assert.ok(pair.errors.some((error) => /no QEMU waits to take it/.test(String(error))));
    assert.equal(pair.secondary.isTorn, false);
    await pair.secondary.failover();
    await end(pair);
  });

  it('ends when the primary says something that it cannot know', async () => {
    const sockets = await socketPair();
    const pair = await protect(sockets);
    const junk = Buffer.alloc(4);
    junk.writeUInt32BE(0xdead, 0);
    sockets.left.write(junk);
    await pair.secondary.ended;
    assert.ok(pair.exits.includes('secondary error'));
    assert.equal(pair.s.engine.state, 'running');
    await end(pair);
  });
});

describe('who may be heard', () => {
  it('a primary that has lost its secondary is not, until it is told to go on alone', async () => {
    const sockets = await socketPair();
    const pair = await protect(sockets);
    assert.deepEqual(pair.heard, []);
    sockets.right.destroy();
    await pair.primary.ended;
    assert.deepEqual(pair.heard, [false]);
    await pair.primary.failover();
    assert.deepEqual(pair.heard, [false, true]);
    await end(pair);
  });

  it('a primary that goes on alone by command always is', async () => {
    const pair = await protect(await socketPair());
    await pair.primary.failover();
    assert.deepEqual(pair.heard, [true]);
    await end(pair);
  });

  it('a primary is not while its secondary does not hear it', async () => {
    const pair = await protect(await socketPair());
    for (const isDeaf of [true, true, false, true]) pair.primary.setPeerDeaf(isDeaf);
    assert.deepEqual(pair.heard, [false, true, false]);
    await pair.primary.failover();
    assert.deepEqual(pair.heard, [false, true, false, true]);
    await end(pair);
  });

  it('a primary that stood still is not, until its secondary has answered a request made since', async () => {
    const pair = await protect(await socketPair());
    standStill();
    await withDeadline(pair.heardNext(), SOON_MS, 'doubt');
    assert.deepEqual(pair.heard, [false]);
    await withDeadline(pair.checkpoints(1), SOON_MS, 'the checkpoint that clears the doubt');
    assert.deepEqual(pair.heard, [false, true]);
    await end(pair);
  });

  it('an answer to a request made before the standstill proves nothing', async () => {
    const pair = await protect(await socketPair());
    const [asked, go] = [new Deferred<void>(), new Deferred<void>()];
    const pause = pair.s.guest.pause.bind(pair.s.guest);
    pair.s.guest.pause = async () => {
      asked.resolve();
      await go.promise;
      await pause();
    };
    pair.primary.request('mismatch');
    await asked.promise;
    standStill();
    await withDeadline(pair.heardNext(), SOON_MS, 'doubt');
    const first = pair.checkpoints(1);
    const second = pair.checkpoints(2);
    go.resolve();
    await first;
    assert.deepEqual(pair.heard, [false]);
    await withDeadline(second, SOON_MS, 'a second checkpoint');
    assert.deepEqual(pair.heard, [false, true]);
    await end(pair);
  });
});
