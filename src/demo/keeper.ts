/**
 * Keeps the demo's pair whole: makes a pair of the copy that runs and a new one, notices when it has ended, lets the
 * survivor go on. What it does a person could type (ha/procedure.ts). The story (story.ts) and a person at the page
 * (hands-on.ts) both drive it: begin, booted, then again and again makeWhole, nextLoss, goOn.
 *
 * States and transitions are the life of a VM as the daemon tells it, LIFE in ha/life/life.ts; OFFERS in offers.ts says what
 * may be done to it in which. Two things are not as on real hosts. There is no arbiter: this one process sees both copies,
 * so it knows who is dead, and one that may be alive (frozen, or behind a cut link) is killed before the other is heard.
 * And a secondary always begins with empty disks.
 */
import type { NewEvent } from '../api/events.ts';
import { Deferred } from '../base/async.ts';
import { ColoError, messageOf } from '../base/errors.ts';
import { BusyError } from '../ha/errors.ts';
import { NEW_LIFE, live } from '../ha/life/life.ts';
import type { Life, LifeEvent } from '../ha/life/life.ts';
import type { CopyView, VmView } from '../ha/views.ts';
import { takeCheckpoint } from '../node/vm-talk.ts';
import { CheckpointTally } from './checkpoint-tally.ts';
import type { DemoCopy } from './copy.ts';
import { BLOW_WORDS, OFFERS } from './offers.ts';
import type { Blow } from './offers.ts';
import type { PairLoss } from './pair-watch.ts';
import { GuestLostError, makePair } from './pairing.ts';
import type { Pair, PairingParts } from './pairing.ts';
import type { Failover, Teller } from './report.ts';
import type { WorkloadNumbers } from './workload.ts';

/** What the keeper does things with; tests imitate them. */
export interface KeeperParts extends PairingParts {
  readonly vm: string;
  readonly tell: Pick<Teller, 'step'>;
  readonly event: (event: NewEvent) => void;
  readonly client: {
    /** performance.now() of the first reply to a request after `atMs`. Rejects when there is none for long. */
    firstReplyAfter(atMs: number): Promise<number>;
    takeNumbers(): WorkloadNumbers;
  };
}

const TALLY_MS = 1_000;

export class PairKeeper {
  readonly failovers: Failover[] = [];
  readonly checkpoints = new CheckpointTally();
  readonly #parts: KeeperParts;
  #life: Life = NEW_LIFE;
  #generation = 0;
  #primary: DemoCopy | null = null;
  #pair: Pair | null = null;
  #resync: CopyView['resync'];
  #lastFailover: VmView['lastFailover'];
  /** What was done to the pair, and when; null: nothing, or by somebody else. */
  #blow: { readonly what: Blow | 'failover'; readonly atMs: number } | null = null;
  #settled = new Deferred<void>();
  readonly #looks: NodeJS.Timeout;

  constructor(parts: KeeperParts) {
    this.#parts = parts;
    this.#looks = setInterval(() => {
      if (this.#primary && this.#life.state === 'protected') void this.checkpoints.look(this.#primary.qmp);
    }, TALLY_MS);
    this.#looks.unref();
  }

  get life(): Life {
    return this.#life;
  }

  get generation(): number {
    return this.#generation;
  }

  get primary(): DemoCopy | null {
    return this.#primary;
  }

  get secondary(): DemoCopy | null {
    return this.#pair?.secondary ?? null;
  }

  get resync(): CopyView['resync'] {
    return this.#resync;
  }

  get lastFailover(): VmView['lastFailover'] {
    return this.#lastFailover;
  }

  /** The guest boots in it. */
  begin(primary: DemoCopy): void {
    this.#primary = primary;
    this.#step('start', `the guest boots on ${primary.host}`);
  }

  booted(): void {
    this.#step('started', 'the guest serves');
  }

  /** Ends when the pair is protected. Throws ColoError when the guest goes on alone, GuestLostError. */
  async makeWhole(): Promise<void> {
    const primary = this.#requirePrimary();
    const generation = ++this.#generation;
    this.#step('sync', 'a new secondary is started, and the disk is copied to it');
    let secondary: DemoCopy;
    try {
      ({ secondary } = await makePair(this.#parts, primary, generation, {
        begun: (pair) => (this.#pair = pair),
        progress: ({ doneBytes, totalBytes }) => (this.#resync = { doneBytes, totalBytes }),
        synced: () => this.#step('synced', 'the disks are equal: the guest’s state is handed over'),
        silent: (reason) => this.#step('silent', reason),
        back: (reason) => this.#step('back', reason),
        lost: (loss) => this.#lost(loss),
      }));
    } catch (error) {
      this.#pair = null;
      if (error instanceof GuestLostError) throw this.#end('died', error);
      this.#step('sync-failed', messageOf(error));
      throw error;
    } finally {
      this.#resync = undefined;
      this.#blow = null;
    }
    const where = `${secondary.name} (pid ${secondary.pid}) on ${secondary.host}`;
    this.#step('whole', `${where} holds a whole checkpoint${this.#clientWords()}`);
    this.#parts.tell.step(`generation ${generation}: protected by ${where}`);
  }

  /** Resolves when the pair has ended; null: `signal` came first. */
  async nextLoss(signal?: AbortSignal): Promise<PairLoss | null> {
    const { loss } = this.#requirePair();
    const broken = new Deferred<null>();
    const abort = (): void => broken.resolve(null);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await Promise.race([loss.promise, broken.promise]);
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** The survivor goes on. Ends when the client has been answered. Throws GuestLostError. */
  async goOn(loss: PairLoss): Promise<Failover> {
    const { client, tell, steps } = this.#parts;
    const primary = this.#requirePrimary();
    const { secondary, cables } = this.#requirePair();
    const isTakeOver = loss.victim === 'primary';
    const [survivor, victim] = isTakeOver ? [secondary, primary] : [primary, secondary];
    const blow = this.#blow;
    const fromMs = blow?.atMs ?? loss.atMs;
    // In the moment before it was protected nobody has said so yet.
    this.#step('lost', loss.reason);
    const answered = client.firstReplyAfter(fromMs);
    answered.catch(() => undefined);
    try {
      // Whatever it was: from here on it is dead.
      await victim.kill();
      if (isTakeOver) await steps.secondaryAlone(secondary);
      else await steps.primaryAlone(primary);
    } catch (cause) {
      throw this.#end('died', new GuestLostError(`the guest is lost: ${messageOf(cause)}`, { cause }));
    } finally {
      cables.close();
    }
    this.#primary = survivor;
    this.#pair = null;
    this.#blow = null;
    // They come back for what it is now.
    survivor.sendViewersAway();
    if (isTakeOver) {
      const [from, to] = [victim.host, survivor.host];
      this.#lastFailover = { atMs: Date.now(), from, to, reason: loss.reason };
      this.#event('failover', loss.reason, { from, to });
    }
    this.#step('won', `${survivor.name} goes on alone: ${loss.reason}`);
    this.#settled.resolve();
    this.#settled = new Deferred();
    const ms = (await answered) - fromMs;
    const words = blow === null ? loss.reason : BLOW_WORDS[blow.what];
    const who = isTakeOver ? `${survivor.name} answered` : 'the primary answered alone';
    tell.step(`generation ${this.#generation}: ${words}; ${who} after ${ms.toFixed(0)} ms`);
    this.#event('client', `the client was answered ${ms.toFixed(0)} ms after it`, { answeredMs: ms });
    const failover = failoverOf(loss, blow?.what ?? null, ms);
    this.failovers.push(failover);
    return failover;
  }

  /** A try at protection has failed: the time before the next one is over. */
  again(): void {
    this.#step('again', 'it is tried again');
  }

  /** What the present primary has not told yet of its checkpoints. */
  async collect(): Promise<void> {
    if (this.#primary) await this.checkpoints.look(this.#primary.qmp);
  }

  /** Resolves with a sentence when it has been done; what comes of it is another matter. Throws BusyError. */
  async strike(what: Blow): Promise<string> {
    this.#requireOffer(what);
    await this.collect();
    // Something else may have happened meanwhile.
    this.#requireOffer(what);
    const primary = this.#requirePrimary();
    const { secondary, cables } = this.#requirePair();
    if (what === 'cut-link' && !cables.isCuttable)
      throw new ColoError('The link passes nobody who could cut it');
    this.#blow = { what, atMs: performance.now() };
    const said = {
      'kill-primary': `${primary.name} (pid ${primary.pid}) was killed`,
      'kill-secondary': `${secondary.name} (pid ${secondary.pid}) was killed`,
      'freeze-primary': `${primary.name} (pid ${primary.pid}) was frozen`,
      'cut-link': `the link between ${primary.host} and ${secondary.host} is cut`,
    }[what];
    this.#event('blow', said, { action: what });
    if (what === 'kill-primary') await primary.kill();
    else if (what === 'kill-secondary') await secondary.kill();
    else if (what === 'freeze-primary') primary.freeze();
    else cables.cut();
    return said;
  }

  /** Resolves when the secondary holds a new checkpoint. Throws ColoError. */
  async checkpoint(): Promise<string> {
    this.#requireOffer('checkpoint');
    const primary = this.#requirePrimary();
    // A copy that is only suspected goes on: its checkpoints do, too.
    const isPair = (): boolean => this.#life.state === 'protected' || this.#life.state === 'suspect';
    if (!(await takeCheckpoint(primary, isPair))) throw new ColoError('The pair ended during the checkpoint');
    await this.collect();
    return `${this.secondary?.name ?? 'the secondary'} holds a new checkpoint`;
  }

  /** Planned: the secondary gets a checkpoint and takes over. Resolves when it is heard. Throws ColoError. */
  async switchOver(): Promise<string> {
    this.#requireOffer('failover');
    await this.checkpoint();
    this.#requireOffer('failover');
    const { secondary, loss, watch } = this.#requirePair();
    const settled = this.#settled.promise;
    watch.stop();
    const atMs = performance.now();
    this.#blow = { what: 'failover', atMs };
    const reason = 'planned switch-over';
    this.#step('lost', reason);
    loss.resolve({ victim: 'primary', kind: 'well', reason, atMs });
    await settled;
    return `${secondary.name} on ${secondary.host} is heard`;
  }

  /** No more is done with the pair; the processes are others' to end. */
  close(): void {
    clearInterval(this.#looks);
    this.#pair?.watch.stop();
    this.#pair?.cables.close();
    this.#end('stop', new ColoError('the demo is ending'));
  }

  #lost(loss: PairLoss): void {
    const { reason, kind, victim } = loss;
    this.#event('peer-lost', reason, { kind, victim });
    // A pair that is being made is undone by its maker.
    if (this.#life.state === 'protected' || this.#life.state === 'suspect') this.#step('lost', reason);
  }

  /** There is no guest any more, or shall be none. */
  #end(how: 'died' | 'stop', reason: ColoError): ColoError {
    this.#step(how, reason.message);
    this.#step('stopped', reason.message);
    this.#settled.reject(reason);
    return reason;
  }

  #step(event: LifeEvent, reason: string): void {
    const changed = live(this.#life, event, reason, Date.now());
    if (!changed) return;
    this.#life = changed.life;
    const { from, to } = changed.change;
    this.#parts.event({ type: 'state', vm: this.#parts.vm, from, to, reason });
  }

  #event(type: string, reason: string, data: Readonly<Record<string, unknown>>): void {
    this.#parts.event({ type, vm: this.#parts.vm, reason, data });
  }

  #clientWords(): string {
    const { requests, connectionsLost, longestWaitMs } = this.#parts.client.takeNumbers();
    if (requests === 0) return '';
    const lost = connectionsLost === 0 ? 'lost nothing' : `lost ${connectionsLost} connections`;
    return `; the client made ${requests} requests, ${lost} and waited ${longestWaitMs.toFixed(0)} ms at most`;
  }

  #requireOffer(what: 'checkpoint' | 'failover' | Blow): void {
    const { state } = this.#life;
    if (OFFERS[state]?.includes(what) === true) return;
    throw new BusyError(`Not now: the VM is ${state}, and would not survive it or has nobody to do it with`);
  }

  #requirePrimary(): DemoCopy {
    if (!this.#primary) throw new ColoError('The guest has not been started');
    return this.#primary;
  }

  #requirePair(): Pair {
    if (!this.#pair) throw new ColoError('There is no secondary');
    return this.#pair;
  }
}

function failoverOf(loss: PairLoss, blow: Blow | 'failover' | null, ms: number): Failover {
  const killed = loss.victim === 'primary' ? 'primary' : 'secondary';
  if (blow === 'failover') return { killed, ms, how: 'planned' };
  if (loss.kind === 'process-frozen') return { killed, ms, how: 'frozen' };
  return loss.victim === 'link' ? { killed, ms, how: 'link cut' } : { killed, ms };
}
