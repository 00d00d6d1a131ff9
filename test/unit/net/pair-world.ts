/**
 * A pair of guests around one comparer, for the property tests of checkpoints. Both guests are honest simulations: what
 * they say travels over connections that hold bytes back, at a checkpoint the secondary becomes what the primary was,
 * and the marks are the senders' own counts of bytes. What must leave is told by the models, flow by flow, from what the
 * guests said and when; they never see a mark. Connections may break; bytes in flight are lost then.
 */
import assert from 'node:assert/strict';
import type { HeldFrame } from '../../../src/base/participant.ts';
import type { ColoCompareOptions } from '../../../src/net/compare/options.ts';
import { DatagramModel } from './datagram-model.ts';
import { PairDebts, RequestLedger } from './pair-debts.ts';
import { Link } from './pair-link.ts';
import type { Word } from './pair-link.ts';
import { PairSpeech } from './pair-speech.ts';
import type { Progress, Utterance, WorldFlow } from './pair-speech.ts';
import { makePropertyRig } from './property-rig.ts';
import type { PropertyRig } from './property-rig.ts';
import { RuleOracle } from './rule-oracle.ts';
import { TcpModel } from './tcp-model.ts';

/** More than it takes until a writer that found no room tries again. */
const RETRY_MS = 50;

export class PairWorld {
  readonly rig: PropertyRig;
  readonly #flows: readonly WorldFlow[];
  #models: (TcpModel<Word> | DatagramModel<Word>)[];
  readonly #primaryLink: Link;
  readonly #secondaryLink: Link;
  readonly #speech: PairSpeech;
  #primary: Progress[];
  #secondary: Progress[];
  #captured: Progress[];
  /** Checkpoints that were begun; what the primary says belongs to the next. */
  #stops = 0;
  /** The state that the secondary runs from; it is silent while it is none of the primary's latest. */
  #secondaryEpoch = 0;
  #isSecondaryRunning = true;
  #mark: { stream: string; bytes: number } | null = null;
  /** The mark names a connection that is no more: the comparer cannot tell epochs apart until the commit. */
  #isDeaf = false;
  #phase: 'running' | 'secondary-stopped' | 'closing' | 'committing' | 'passing' = 'running';
  #isCommitted = false;
  /** How many waits for the last packets may still be ended by time. */
  #deadlines = 0;
  #failure: Error | null = null;
  #connections = 0;
  readonly #debts: PairDebts;
  readonly #requests: RequestLedger;
  /** Nothing is dropped for want of room, so the models know all. Else only the oracle is asked. */
  readonly #isExact: boolean;
  readonly #oracle: RuleOracle;
  #wasBlocked = false;
  readonly #hasHeldOutput: boolean;
  heldOutputs = 0;
  said = 0;
  left = 0;

  /** The last flow is one of datagrams. */
  constructor(
    flows: readonly WorldFlow[],
    hasVnet: boolean,
    seed: number,
    limits: Pick<ColoCompareOptions, 'maxQueueSize' | 'maxHeldBytes' | 'maxFlows'> | null = null,
  ) {
    this.#isExact = limits === null;
    this.#flows = flows;
    this.#speech = new PairSpeech(flows, hasVnet, seed);
    this.#hasHeldOutput = seed % 2 === 0;
    this.rig = makePropertyRig(hasVnet, {
      hasSender: true,
      findOutputNetdev: () => 'net0',
      ...limits,
    });
    this.#oracle = new RuleOracle(flows.length);
    this.#primaryLink = new Link(this.rig.primary);
    this.#secondaryLink = new Link(this.rig.secondary);
    this.#primary = this.#speech.silence();
    this.#secondary = this.#speech.silence();
    this.#captured = this.#speech.silence();
    this.#models = this.#newModels();
    this.#debts = new PairDebts(flows);
    this.#requests = new RequestLedger(this.rig.requests);
  }

  primarySays(utterance: Utterance): void {
    const word = this.#speech.word('primary', this.#primary, utterance, this.#stops);
    this.#primaryLink.write(word);
    this.#oracle.primary(word);
    this.rig.sender.bytesOut = this.#primaryLink.written;
    this.said++;
  }

  secondarySays(utterance: Utterance): void {
    if (!this.#isSecondaryRunning) return;
    const index = utterance.flow % this.#flows.length;
    const [ahead, behind] = [this.#primary[index]!, this.#secondary[index]!];
    if (utterance.catchesUp && behind.isOpen) {
      const length = Math.max(0, ahead.at - behind.at);
      utterance = { ...utterance, back: 0, length, ack: Math.max(0, ahead.ack - behind.ack) };
    }
    const word = this.#speech.word('secondary', this.#secondary, utterance, this.#secondaryEpoch);
    this.#secondaryLink.write(word);
    if (word.epoch === this.#stops) this.#oracle.secondary(word);
  }

  deliverPrimary(count: number): void {
    for (const word of this.#primaryLink.deliver(count)) {
      if (this.#phase === 'passing') this.#expect(word.flow, [word]);
      else this.#expect(word.flow, this.#models[word.flow]!.primary(word, word.epoch < this.#stops));
    }
  }

  deliverSecondary(count: number): void {
    for (const word of this.#secondaryLink.deliver(count)) {
      if (this.#phase === 'passing' || word.epoch < this.#stops || this.#isDeaf) continue;
      this.#expect(word.flow, this.#models[word.flow]!.secondary(word));
    }
  }

  breakPrimary(): void {
    // Without its SYN a connection is another to the comparer, until the next checkpoint.
    if (this.#primaryLink.has(({ isSyn }) => isSyn === true)) return;
    this.said -= this.#lostWords(this.#primaryLink);
    this.#primaryLink.break(`compare0-${++this.#connections}`);
    this.rig.sender.bytesOut = 0;
  }

  breakSecondary(): void {
    this.#secondaryLink.break(`red1-${++this.#connections}`);
  }

  /** The peer of `outdev` reads no more, or again. What is released waits for it. */
  setBlocked(isBlocked: boolean, tick: (ms: number) => void): void {
    // Then it leaves later than it was let go, which the oracle cannot tell from too late.
    if (!this.#isExact) return;
    if (isBlocked) this.#wasBlocked = true;
    this.rig.out.full = isBlocked;
    if (!isBlocked) tick(RETRY_MS);
  }

  /** The next thing that happens in a checkpoint. */
  async advance(): Promise<void> {
    const { compare } = this.rig;
    if (this.#phase === 'running') {
      this.#isSecondaryRunning = false;
      this.#mark = { stream: this.#secondaryStream, bytes: this.#secondaryLink.written };
      this.#phase = 'secondary-stopped';
    } else if (this.#phase === 'secondary-stopped') {
      compare.stopped('primary');
      this.#stops++;
      this.#oracle.stop();
      this.#captured = this.#primary.map((progress) => ({ ...progress, isOwnSyn: false }));
      for (const model of this.#models) model.stop();
      const mark = this.#mark!;
      await compare.peerMarks('primary', [mark]);
      this.#isDeaf = mark.stream !== this.#secondaryStream;
      compare.resumed('primary');
      this.#phase = 'closing';
    } else if (this.#phase === 'closing') {
      this.#phase = 'committing';
      this.#isCommitted = false;
      this.#deadlines = this.#hasHeldOutput ? 2 : 1;
      this.#commit().catch((cause: unknown) => {
        this.#failure = cause instanceof Error ? cause : new Error(String(cause));
      });
    }
    // It may speak before the comparer knows that the checkpoint is held.
    else if (this.#phase === 'committing') this.#load();
  }

  /** Lets one second pass: the comparer waits no longer for what has not come. */
  passDeadline(tick: (ms: number) => void): void {
    tick(1_000);
    if (this.#phase === 'committing') this.#deadlines--;
  }

  scan(): void {
    this.rig.compare.scan();
    this.#requests.scanned();
  }

  /** After each step: what should have left has left, and nothing else. */
  async check(): Promise<void> {
    if (this.#phase === 'committing') {
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#failure !== null) throw this.#failure;
      const isDrained = !this.#primaryLink.has(({ epoch }) => epoch < this.#stops);
      assert.equal(
        this.#isCommitted,
        isDrained || this.#deadlines <= 0,
        'the commit waits for the last packet only',
      );
      if (this.#isCommitted) {
        this.#phase = 'running';
        this.#oracle.commit();
        this.#isDeaf = false;
        this.#requests.answered();
        for (const [flow, model] of this.#models.entries()) this.#expect(flow, model.commit());
        if (!this.#isSecondaryRunning) this.#load();
      }
    }
    this.#assertReleased();
    this.#assertRequests();
  }

  /** All that waits leaves, in its order, and then everything passes. */
  async failOver(): Promise<void> {
    await this.rig.compare.stop('primary', true);
    this.#phase = 'passing';
    // A commit that waited ends now, without effect.
    await new Promise((resolve) => setImmediate(resolve));
    this.#oracle.end();
    for (const [flow, model] of this.#models.entries()) this.#expect(flow, [...model.closed, ...model.queue]);
    this.#assertReleased();
  }

  /** A new secondary: the pair begins with a checkpoint that has no marks. */
  async restart(): Promise<void> {
    const { compare } = this.rig;
    this.breakSecondary();
    await compare.start('primary');
    compare.stopped('primary');
    compare.resumed('primary');
    // It knows of no earlier pair, and a way out that was blocked tells it nothing.
    this.#wasBlocked = true;
    this.#stops++;
    // To the new pair a connection whose SYN it never saw is an old one; a SYN would make it another.
    this.#primary = this.#primary.map((progress) => ({ ...progress, isSynOver: progress.isOpen }));
    this.#captured = this.#primary.map((progress) => ({ ...progress, isOwnSyn: false }));
    this.#models = this.#newModels();
    for (const model of this.#models) model.stop();
    this.#isSecondaryRunning = false;
    this.#isDeaf = true;
    this.#phase = 'closing';
    this.#requests.restarted();
    this.#assertReleased();
  }

  /** Brings a checkpoint to its end, and takes another: nothing is left. */
  async settle(): Promise<void> {
    for (let round = 0; round < 8; round++) {
      this.deliverPrimary(Infinity);
      this.deliverSecondary(Infinity);
      await this.check();
      await this.advance();
      await this.check();
    }
    while (this.#phase !== 'running') {
      await this.advance();
      await this.check();
    }
    const { droppedPrimary } = this.rig.compare.stats;
    assert.equal(
      this.left + droppedPrimary,
      this.said,
      'each packet that came has left, or was dropped and counted',
    );
    assert.equal(this.rig.compare.heldPackets, 0);
  }

  get #secondaryStream(): string {
    return this.rig.secondary.connection?.incoming ?? '';
  }

  async #commit(): Promise<void> {
    if (this.#hasHeldOutput) this.#checkHeldOutput(await this.rig.compare.heldOutput());
    await this.rig.compare.commit('primary');
    this.#isCommitted = true;
  }

  /** All of the closed epoch that has come. */
  #checkHeldOutput(frames: readonly HeldFrame[]): void {
    if (this.#phase !== 'committing') return;
    for (const { netdev } of frames) assert.equal(netdev, 'net0');
    if (!this.#isExact) return;
    const owed = this.#models.flatMap(({ closed }) => closed.map(({ frame }) => frame.bytes));
    assert.deepEqual(
      sorted(frames.map(({ frame }) => frame)),
      sorted(owed),
      'what travels with the checkpoint is what waits',
    );
    this.heldOutputs++;
  }

  #newModels(): (TcpModel<Word> | DatagramModel<Word>)[] {
    return this.#flows.map((_, index) =>
      index === this.#flows.length - 1 ? new DatagramModel<Word>() : new TcpModel<Word>(),
    );
  }

  #load(): void {
    if (this.#isSecondaryRunning) return;
    this.#secondary = this.#captured.map((progress) => ({ ...progress }));
    this.#secondaryEpoch = this.#stops;
    this.#isSecondaryRunning = true;
  }

  #lostWords(link: Link): number {
    let count = 0;
    link.has(() => {
      count++;
      return false;
    });
    return count;
  }

  #expect(flow: number, words: readonly Word[]): void {
    this.#debts.owe(flow, words);
  }

  #assertReleased(): void {
    const released = this.rig.released();
    if (this.rig.out.full) {
      assert.deepEqual(released, []);
      return;
    }
    this.left += released.length;
    if (!this.#wasBlocked) for (const frame of released) this.#oracle.released(frame);
    if (this.#isExact) this.#debts.pay(released, `${this.#phase}, checkpoint ${this.#stops}`);
  }

  #assertRequests(): void {
    const isJudged = this.#isExact && this.#phase !== 'passing';
    this.#requests.check(isJudged ? this.#models : [], isJudged && this.#phase === 'running');
  }
}

function sorted(frames: readonly Uint8Array[]): string[] {
  return frames.map((frame) => Buffer.from(frame).toString('hex')).sort();
}
