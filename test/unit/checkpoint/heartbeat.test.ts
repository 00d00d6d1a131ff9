/** The heartbeat by a clock that stands where the test puts it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Heartbeat } from '../../../src/checkpoint/heartbeat.ts';
import type { HeartbeatSettings } from '../../../src/checkpoint/heartbeat.ts';

class Bench {
  readonly said: string[] = [];
  readonly heartbeat: Heartbeat;
  beats = 0;
  /** As the last beat said. */
  isDeaf = false;
  canBeat = true;
  isListening = true;
  /** Whether what waits in the socket is read at the last look. */
  hasUnread = false;
  #now = 1000;
  #look: { everyMs: number; next: number; act: () => void } | null = null;
  #lastLooks: (() => void)[] = [];

  constructor(settings: Partial<HeartbeatSettings> = {}) {
    this.heartbeat = new Heartbeat(
      { intervalMs: 100, patienceMs: 400, ...settings },
      {
        beat: (isDeaf) => {
          if (this.canBeat) this.beats++;
          this.isDeaf = isDeaf;
          return this.canBeat;
        },
        isListening: () => this.isListening,
      },
      {
        onSilent: (ms) => this.said.push(`silent ${ms}`),
        onBack: (ms) => this.said.push(`back ${ms}`),
        onDeafPeer: (isDeaf) => this.said.push(isDeaf ? 'deaf' : 'hears'),
      },
      {
        now: () => this.#now,
        every: (everyMs, act) => {
          const look = (this.#look = { everyMs, next: this.#now + everyMs, act });
          return () => {
            if (this.#look === look) this.#look = null;
          };
        },
        afterLook: (act) => {
          this.#lastLooks.push(act);
          return () => {
            this.#lastLooks = this.#lastLooks.filter((other) => other !== act);
          };
        },
      },
    );
    this.heartbeat.start();
  }

  get isLooking(): boolean {
    return this.#look !== null;
  }

  /** Lets time pass, the looks in it each at their time. */
  pass(ms: number): void {
    const until = this.#now + ms;
    for (let look = this.#look; look && look.next <= until; look = this.#look) {
      this.#now = look.next;
      look.next += look.everyMs;
      look.act();
      this.#lookOnce();
    }
    this.#now = until;
  }

  /** The process stands still for so long; then one look is due. */
  standStill(ms: number): void {
    this.#now += ms;
    const look = this.#look!;
    look.next = this.#now + look.everyMs;
    look.act();
    this.#lookOnce();
  }

  #lookOnce(): void {
    if (this.hasUnread) {
      this.hasUnread = false;
      this.heartbeat.heard();
    }
    for (const act of this.#lastLooks.splice(0)) act();
  }
}

describe('heartbeat', () => {
  it('says from half of the patience on that it does not hear its peer, and takes it back', () => {
    const bench = new Bench();
    bench.pass(190);
    assert.equal(bench.isDeaf, false);
    bench.pass(110);
    assert.equal(bench.isDeaf, true);
    assert.deepEqual(bench.said, []);
    bench.heartbeat.heard();
    bench.pass(100);
    assert.equal(bench.isDeaf, false);
  });

  it('tells once that the peer does not hear it, and once that it does', () => {
    const bench = new Bench();
    for (const isDeaf of [false, true, true, false, false]) bench.heartbeat.peerSays(100, isDeaf);
    assert.deepEqual(bench.said, ['deaf', 'hears']);
  });

  it('beats at its interval, and tells one silence once', () => {
    const bench = new Bench();
    bench.pass(300);
    assert.equal(bench.beats, 4);
    bench.heartbeat.heard();
    bench.pass(350);
    assert.deepEqual(bench.said, []);
    bench.pass(50);
    assert.deepEqual(bench.said, ['silent 400']);
    bench.pass(5000);
    assert.equal(bench.heartbeat.status().isSilent, true);
    assert.equal(bench.heartbeat.status().lastHeardMs, 5400);
    bench.heartbeat.heard();
    assert.deepEqual(bench.said, ['silent 400', 'back 5400']);
    bench.pass(400);
    assert.equal(bench.said.length, 3);
  });

  it('beats as soon as it can where it could not', () => {
    const bench = new Bench();
    bench.canBeat = false;
    bench.pass(1000);
    bench.canBeat = true;
    bench.pass(50);
    assert.equal(bench.beats, 2);
  });

  it('believes a peer that beats seldom, as far as the bound goes', () => {
    const bench = new Bench();
    bench.heartbeat.peerSays(1000, false);
    bench.pass(1950);
    assert.deepEqual(bench.said, []);
    bench.pass(50);
    assert.deepEqual(bench.said, ['silent 2000']);
    bench.heartbeat.peerSays(2 ** 31 - 1, false);
    bench.heartbeat.heard();
    bench.pass(120_000);
    assert.deepEqual(bench.said, ['silent 2000', 'back 2000', 'silent 120000']);
  });

  it('says nothing with a patience of 0, and takes other settings while it goes', () => {
    const bench = new Bench({ patienceMs: 0 });
    bench.pass(10_000);
    assert.deepEqual(bench.said, []);
    bench.heartbeat.set({ intervalMs: 20, patienceMs: 100 });
    bench.heartbeat.heard();
    const { beats } = bench;
    bench.pass(100);
    assert.equal(bench.beats - beats, 5);
    assert.equal(bench.said.length, 1);
  });

  it('does not count what itself does not read, nor go on after its end', () => {
    const bench = new Bench();
    bench.isListening = false;
    bench.pass(5000);
    bench.isListening = true;
    bench.pass(350);
    assert.deepEqual(bench.said, []);
    bench.heartbeat.stop();
    bench.pass(5000);
    assert.deepEqual(bench.said, []);
    assert.equal(bench.isLooking, false);
  });

  describe('in a process that stood still', () => {
    it('reads first what came meanwhile', () => {
      const bench = new Bench();
      bench.pass(390);
      bench.hasUnread = true;
      bench.standStill(5000);
      assert.deepEqual(bench.said, []);
    });

    it('gives a peer that stood still too half of the patience, and no more', () => {
      const bench = new Bench();
      bench.pass(380);
      bench.standStill(5000);
      bench.pass(150);
      assert.deepEqual(bench.said, []);
      bench.pass(50);
      assert.deepEqual(bench.said, ['silent 5580']);
    });

    it('does not count what it missed in the middle of a silence', () => {
      const bench = new Bench();
      bench.pass(100);
      bench.standStill(3000);
      bench.pass(200);
      assert.deepEqual(bench.said, []);
      bench.pass(100);
      assert.equal(bench.said.length, 1);
    });

    it('comes to an end even if it stands still all the time', () => {
      const bench = new Bench();
      let looks = 0;
      for (; bench.said.length === 0 && looks < 20; looks++) bench.standStill(200);
      assert.ok(looks < 20);
    });
  });
});
