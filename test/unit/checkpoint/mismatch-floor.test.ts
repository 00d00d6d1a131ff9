import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { BURST_MS, MAX_RUN_SHARE, MismatchFloor } from '../../../src/checkpoint/mismatch-floor.ts';
import { socketPair } from '../../helpers/socket-pair.ts';
import { end, protect } from './frame-pair.ts';

describe('the floor between two checkpoints that differences ask for', () => {
  it('leaves the guest its share whatever asks when, and makes nobody wait longer than the debt', () => {
    const steps = fc.array(
      fc.record({ quietMs: fc.integer({ min: 0, max: 400 }), takesMs: fc.integer({ min: 1, max: 3_000 }) }),
      { maxLength: 60 },
    );
    fc.assert(
      fc.property(fc.integer({ min: 0, max: MAX_RUN_SHARE }), steps, (share, asked) => {
        const floor = new MismatchFloor(share);
        const factor = share / (100 - share);
        let now = 0;
        let ran = 0;
        let stood = 0;
        let longest = 0;
        for (const { quietMs, takesMs } of asked) {
          const waits = floor.waitMs(now + quietMs);
          assert.ok(waits <= factor * longest + 1e-6, `${waits} ms after at most ${longest} ms`);
          // As the loop does: it looks again when the time is over, and then nothing is left to wait for.
          assert.ok(floor.waitMs(now + quietMs + waits) < 1e-6);
          ran += quietMs + waits;
          now += quietMs + waits;
          assert.ok(ran >= factor * stood - BURST_MS - 1e-6, `ran ${ran} ms, stood ${stood} ms`);
          floor.taken(now, now + takesMs);
          now += takesMs;
          stood += takesMs;
          longest = Math.max(longest, takesMs);
        }
      }),
    );
  });

  it('is out of the way of a difference now and then', () => {
    const floor = new MismatchFloor(50);
    let now = 0;
    for (let at = 0; at < 1000; at++) {
      assert.equal(floor.waitMs(now), 0);
      floor.taken(now, now + BURST_MS);
      now += 2 * BURST_MS;
    }
  });

  it('holds a difference back, and neither a command, nor a parameter, nor the timer', async () => {
    let now = 0;
    const pair = await protect(await socketPair(), { primary: { mismatchRunShare: 90, now: () => now } });
    const capture = pair.p.engine.capture.bind(pair.p.engine);
    pair.p.engine.capture = (options) => {
      now += 1_000_000; // by its own clock each takes so long that the floor is hours
      return capture(options);
    };
    await pair.checkpoint();
    pair.primary.request('mismatch');
    const second = pair.checkpoints(1);
    pair.primary.request('request');
    await second;
    pair.primary.request('mismatch');
    const third = pair.checkpoints(1);
    pair.primary.setDelay(3_600_000);
    await third;
    pair.primary.request('mismatch');
    const fourth = pair.checkpoints(2);
    pair.primary.setDelay(1);
    await fourth;
    assert.deepEqual(
      pair.records.slice(0, 5).map(({ cause }) => cause),
      ['mismatch', 'request', 'parameter', 'parameter', 'timer'],
    );
    await end(pair);
  });

  it('forgets no difference that waits: it is answered when its time has come', async () => {
    let now = 0;
    const pair = await protect(await socketPair(), { primary: { mismatchRunShare: 50, now: () => now } });
    const capture = pair.p.engine.capture.bind(pair.p.engine);
    pair.p.engine.capture = (options) => {
      now += 10_000;
      return capture(options);
    };
    await pair.checkpoint();
    const answered = pair.checkpoint();
    assert.equal(pair.records.length, 1);
    now += 10_000;
    pair.primary.setMismatchRunShare(50); // looks at the clock again
    await answered;
    const again = pair.checkpoint();
    pair.primary.setMismatchRunShare(0); // no floor at all
    await again;
    assert.deepEqual(
      pair.records.map(({ cause }) => cause),
      ['mismatch', 'mismatch', 'mismatch'],
    );
    await end(pair);
  });
});
