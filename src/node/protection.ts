/**
 * Keeps a guest that is heard here protected: with whom (next-secondary.ts), one try (protecting.ts), back from one that
 * has failed, the next after a while; and a secondary that is to be elsewhere. The controller gives what is its own.
 */
import { ColoError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { RecordId } from '../ha/arbiter/index.ts';
import type { RunningVm } from '../ha/index.ts';
import { BackOff } from '../ha/life/back-off.ts';
import type { Life, LifeEvent } from '../ha/life/life.ts';
import type { Event, Side } from '../ha/side.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { NextSecondary } from './next-secondary.ts';
import type { ControllerParts } from './parts.ts';
import { Protecting } from './protecting.ts';

/** What is known of the copy on this host, at this moment. */
export interface OwnCopy {
  readonly name: string;
  readonly side: Side;
  readonly life: Life;
  readonly vm: RunningVm | null;
  readonly spec: VmSpec;
}

export interface ProtectionHooks {
  feed(event: Event): void;
  step(event: LifeEvent, reason: string): void;
  /** This copy is over. */
  end(event: LifeEvent, reason: string): void;
  /** The other copy's silence means nothing any more. */
  stopWatching(): void;
  /** The other copy counts as lost. */
  peerLost(reason: string): void;
  /** Rejects when the daemon ends. */
  until(isSo: () => boolean): Promise<void>;
}

/** Between two tries at protection. */
const AGAIN = { firstMs: 1_000, longestMs: 30_000 };
const log = loggerFor('protection');

export class Protection {
  readonly #copy: OwnCopy;
  readonly #parts: ControllerParts;
  readonly #hooks: ProtectionHooks;
  readonly #next: NextSecondary;
  readonly #again = new BackOff(AGAIN);
  #notBefore = 0;
  #try: Protecting | null = null;

  constructor(copy: OwnCopy, parts: ControllerParts, hooks: ProtectionHooks) {
    this.#copy = copy;
    this.#parts = parts;
    this.#hooks = hooks;
    this.#next = new NextSecondary(parts);
  }

  /** The try that is under way. */
  get underWay(): Protecting | null {
    return this.#try;
  }

  /** The guest is heard here, alone: begins what is due. */
  consider(isPaused: boolean): void {
    if (this.#try !== null || this.#parts.now() < this.#notBefore) return;
    if (this.#copy.life.state === 'backing-off')
      this.#hooks.step('again', 'the next try at protection is due');
    if (!isPaused && this.#copy.life.state === 'unprotected') this.#begin();
  }

  /** The pair is whole: a secondary whose host is being emptied goes elsewhere, if there is an elsewhere. */
  async considerMoving(): Promise<void> {
    const { side, spec } = this.#copy;
    if (side.peer === null || this.#next.wanted !== null) return;
    const host = this.#parts.hosts().find(({ name }) => name === side.peer);
    if (host?.isInMaintenance !== true || this.#next.choose(spec) === null) return;
    await this.sendPeerAway(`${side.peer} is in maintenance`);
  }

  /** The next secondary is to be there; the present one, if it is another, goes. Resolves when the pair is whole. */
  async by(host: string): Promise<void> {
    const copy = this.#copy;
    const isOver = (): boolean => copy.life.state === 'stopping';
    this.#next.wanted = host;
    this.#notBefore = 0;
    try {
      if (copy.side.phase === 'primary' && copy.side.peer !== host)
        await this.sendPeerAway(`moving to ${host}`);
      await this.#hooks.until(() => (copy.life.state === 'protected' && copy.side.peer === host) || isOver());
    } finally {
      this.#next.wanted = null;
    }
    if (isOver()) throw new ColoError(`'${copy.name}' ended while it was being moved`);
  }

  /** Ends the pair in good order: the secondary stops, this side asks to be alone. */
  async sendPeerAway(reason: string): Promise<void> {
    const { peer } = this.#copy.side;
    if (peer === null) return;
    this.#hooks.stopWatching();
    await this.#askToLeave(peer, reason);
    this.#hooks.peerLost(reason);
    await this.#hooks.until(() => this.#copy.life.state !== 'dissolving');
  }

  /** Of the try that is under way: its own end is no failure any more. */
  abandon(reason: string): void {
    this.#try?.abandon(new ColoError(reason));
    this.#try = null;
  }

  /** As abandon, before the arbiter was asked for a pair: who was to be the secondary is told. */
  callOff(reason: string): void {
    const to = this.#try?.target;
    this.abandon(reason);
    if (to !== undefined) void this.#askToLeave(to, reason);
  }

  handOver(pairing: RecordId): void {
    void this.#try?.handOver(pairing);
  }

  /** Another process runs the guest. */
  guestStarted(): void {
    this.#next.forgetBitmap();
  }

  /** The secondary holds a whole checkpoint. */
  whole(): void {
    this.#again.reset();
    this.#next.succeeded();
    this.#try = null;
  }

  /** The pair of `pairing` with `peer` has ended, and this side goes on. */
  parted(pairing: RecordId, peer: string | null): void {
    this.#next.parted(pairing, peer);
  }

  /** This side is heard, alone. Who was the primary before lets its secondary's host come to itself first. */
  wentOn({ wasSecondary }: { readonly wasSecondary: boolean }): void {
    this.#try = null;
    this.#notBefore = this.#parts.now() + (wasSecondary ? 0 : this.#again.next());
  }

  /** Back to what an unprotected VM is; the next try after a while. */
  async undo(reason: string): Promise<void> {
    const { vm, spec, name } = this.#copy;
    const failed = this.#try;
    this.abandon(reason);
    this.#hooks.stopWatching();
    if (!vm) return;
    this.#notBefore = this.#parts.now() + this.#again.next();
    if (failed?.isRefused !== true) this.#next.forgetBitmap();
    try {
      await this.#parts.steps.primaryAlone(vm, spec);
    } catch (error) {
      log.error({ vm: name, err: error }, 'the guest cannot be taken back');
      this.#hooks.end('died', messageOf(error));
      return;
    }
    if (failed !== null) {
      this.#next.failedOn(failed.target);
      void this.#askToLeave(failed.target, reason);
    }
    this.#hooks.step('sync-failed', reason);
  }

  #begin(): void {
    const { vm, spec } = this.#copy;
    if (!vm) return;
    const target = this.#next.choose(spec);
    if (target === null) return;
    this.#hooks.step('sync', `to ${target}`);
    const one = (this.#try = new Protecting(vm, spec, target, this.#next.bitmapSince, this.#parts, {
      synced: (peer) => {
        const how = one.isBitmapEnough ? 'what had changed was copied' : 'they were copied whole';
        this.#hooks.step('synced', `the disks on ${peer} are equal: ${how}`);
        this.#hooks.feed({ type: 'peer-ready', peer });
      },
      handedOver: () => this.#hooks.feed({ type: 'checkpoint-confirmed' }),
      failed: (error) => void this.#onFailed(one, error),
      progressed: () => this.#parts.publish(),
    }));
    void one.start();
  }

  async #onFailed(one: Protecting, error: unknown): Promise<void> {
    if (this.#try !== one) return;
    const { name, side } = this.#copy;
    log.warn({ vm: name, err: error }, 'protection');
    if (side.phase === 'arming') this.#hooks.feed({ type: 'peer-lost' });
    else if (side.phase === 'alone') await this.undo(messageOf(error));
    // In pairing and beyond the arbiter decides: a lost peer is noticed as any other.
  }

  /** Never rejects: a host that does not hear it finds out by itself. */
  async #askToLeave(host: string, reason: string): Promise<void> {
    const { name } = this.#copy;
    try {
      await this.#parts.peer(host).leave(name, reason);
    } catch (error) {
      log.warn({ vm: name, host, err: error }, 'leave');
    }
  }
}
