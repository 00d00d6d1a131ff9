/**
 * One VM on one host: what is done about it. `tick` looks at what is wanted and begins what is missing; the table of the
 * side (ha/side.ts) says who may go on alone; the life (ha/life) is what is told. The guest is spoken to by QMP only.
 *
 * Two long dialogues have files of their own: protection.ts (a new secondary, from the primary's end) and standby.ts (the
 * same from the other end). peer-watch.ts says when the other copy counts as lost.
 */
import { randomBytes } from 'node:crypto';
import { ColoError, messageOf } from '../base/errors.ts';
import { BusyError } from '../ha/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { Copy, CopyReport, JoinAnswer, JoinRequest } from '../api/service.ts';
import type { RunningVm, VmEntry, VmExit, VmView } from '../ha/index.ts';
import type { RecordId } from '../ha/arbiter/index.ts';
import { BackOff } from '../ha/life/back-off.ts';
import { live, NEW_LIFE, type Life, type LifeEvent } from '../ha/life/life.ts';
import { newSide, type Phase, type Side } from '../ha/side.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { RECONNECTED } from '../qmp/lasting-client.ts';
import type { QmpEvent } from '../qmp/types.ts';
import { CheckpointCount } from './checkpoint-count.ts';
import type { ControllerParts } from './parts.ts';
import { ROLES, viewOf } from './copy-view.ts';
import { GivingWay } from './giving-way.ts';
import { PeerWatch } from './peer-watch.ts';
import { Protection } from './protection.ts';
import { SideDriver } from './side-driver.ts';
import { Standby } from './standby.ts';
import { TakeOver } from './take-over.ts';
import { hasNeverRun, isFollower, pause, quit, takeCheckpoint } from './vm-talk.ts';
import { isGuestShutdown, VmLink } from './vm-link.ts';
import { mayStart } from './wishes.ts';

const log = loggerFor('vm');

/** Between two looks at whether it may be started. */
const START_AGAIN = { firstMs: 500, longestMs: 5_000 };
/** For a copy to end that has lost to whoever invites it, milliseconds. */
const LEAVE_MS = 10_000;

/** Not heard, and not to be typed at. */
const FOLLOWING: ReadonlySet<Phase> = new Set(['joining', 'secondary']);

export class Controller {
  readonly name: string;
  readonly #parts: ControllerParts;
  readonly #driver: SideDriver;
  readonly #watch: PeerWatch;
  readonly #startAgain = new BackOff(START_AGAIN);
  #entry: VmEntry | null = null;
  #spec: VmSpec;
  #life: Life = NEW_LIFE;
  readonly #link: VmLink;
  readonly #protection: Protection;
  readonly #standby: Standby;
  #startNotBefore = 0;
  /** Of the record that this host spoke under last, or may start under: what it tells when it does not speak. */
  #lastEpoch = 0;
  #ticking: Promise<void> | null = null;
  #isDiscarding = false;
  /** A start or a take-over, until all that it does with processes and disks has ended. Never rejects. */
  #becomingHeard: Promise<void> = Promise.resolve();
  #isEnded = false;
  readonly #takingOver: TakeOver;
  readonly #givingWay = new GivingWay();
  #lastFailover: VmView['lastFailover'];
  readonly #checkpoints: CheckpointCount;
  #arbiterTrouble: string | null = null;

  constructor(spec: VmSpec, parts: ControllerParts) {
    this.name = spec.name;
    this.#spec = spec;
    this.#parts = parts;
    this.#checkpoints = new CheckpointCount(() => parts.now());
    this.#takingOver = new TakeOver(parts, (vm) => this.#link.vm === vm && !this.#isEnded);
    this.#protection = new Protection(this, parts, {
      feed: (event) => this.#driver.feed(event),
      step: (event, reason) => this.#step(event, reason),
      end: (event, reason) => this.#end(event, reason),
      stopWatching: () => this.#watch.stop(),
      peerLost: (reason) => this.#onPeerLost(reason, {}),
      until: (isSo) => this.#until(isSo),
    });
    this.#link = new VmLink({
      event: (event) => this.#onVmEvent(event),
      exited: (vm, exit) => this.#onExit(vm, exit),
    });
    this.#standby = new Standby(spec.name, parts, {
      phase: () => this.side.phase,
      feed: (event) => this.#driver.feed(event),
      step: (event, reason) => this.#step(event, reason),
      attach: (vm) => this.#link.attach(vm),
      forget: async () => {
        const { vm } = this.#link;
        this.#forget();
        await vm?.kill();
      },
    });
    const saved = parts.loadSide();
    this.#lastEpoch = saved?.known?.epoch ?? 0;
    this.#driver = new SideDriver(
      spec.name,
      saved ?? this.#freshSide(),
      parts.arbiter,
      {
        startGuest: () => void (this.#becomingHeard = this.#startGuest()),
        takeOver: () => void (this.#becomingHeard = this.#takeOver()),
        receive: () => undefined,
        checkpoint: (pairing) => this.#protection.handOver(pairing),
        confirm: () => this.#standby.confirmed(),
        discard: () => void this.#discard(),
        tellStale: () =>
          this.#refuse('the disk here is not of the newest: another host has gone on without it'),
        arbiterTrouble: (trouble) => this.#onArbiter(trouble),
        changed: (before, after) => this.#onSide(before, after),
      },
      (side) => parts.saveSide(side),
    );
    this.#watch = new PeerWatch(spec, parts, {
      silent: (reason) => this.#step('silent', reason),
      back: (reason) => this.#step('back', reason),
      lost: (reason, data) => this.#onPeerLost(reason, data),
    });
  }

  get life(): Life {
    return this.#life;
  }

  get side(): Side {
    return this.#driver.side;
  }

  get vm(): RunningVm | null {
    return this.#link.vm;
  }

  get spec(): VmSpec {
    return this.#spec;
  }

  /** Which of the two this host has, if it has one. */
  get copy(): Copy {
    return FOLLOWING.has(this.side.phase) ? 'secondary' : 'primary';
  }

  /** Nothing of it is here, and nothing is under way. */
  get isIdle(): boolean {
    return this.side.phase === 'idle' && this.#link.vm === null && !this.#standby.isJoining;
  }

  /** A daemon that was started again: finds the process of the one before. */
  async adopt(): Promise<void> {
    const { phase, peer } = this.side;
    const vm = await this.#parts.room.adopt(this.name);
    if (vm === null) {
      if (phase === 'idle') return;
      this.#parts.saveSide(null);
      this.#driver.reset(this.#freshSide());
      return;
    }
    this.#link.attach(vm);
    const secondary = phase === 'secondary' || (phase === 'asking' && (await isFollower(vm)));
    switch (phase) {
      case 'primary':
      case 'secondary':
      case 'pairing':
      case 'asking':
        this.#life = { state: 'protected', reason: 'taken up again by a new daemon', sinceMs: Date.now() };
        this.#watch.start(secondary ? 'secondary' : 'primary', peer ?? '');
        this.#driver.resume();
        await this.#askVm();
        return;
      case 'arming':
        // How far it had come is not known: begun anew.
        this.#life = { state: 'protecting', reason: 'taken up again by a new daemon', sinceMs: Date.now() };
        this.#driver.feed({ type: 'peer-lost' });
        return;
      case 'alone':
        this.#life = { state: 'unprotected', reason: 'taken up again by a new daemon', sinceMs: Date.now() };
        await this.#finishBecomingHeard(vm);
        await this.#protection.undo('the daemon was started again');
        return;
      case 'idle':
      case 'reading':
      case 'joining':
      case 'stopping':
        await vm.kill();
        this.#driver.reset(this.#freshSide());
    }
  }

  /** The daemon of a host says that its process of this VM is gone. */
  onPeerDied(host: string): void {
    this.#watch.onPeerDied(host);
  }

  /** Looks at what is wanted, and begins what is missing. Cheap; called every second and at every change. */
  async tick(entry: VmEntry | null): Promise<void> {
    this.#entry = entry;
    if (this.#isEnded) return;
    this.#ticking ??= this.#tick()
      .catch((error: unknown) => log.warn({ vm: this.name, err: error }, 'tick'))
      .finally(() => (this.#ticking = null));
    await this.#ticking;
  }

  async #tick(): Promise<void> {
    const entry = this.#entry;
    const { phase } = this.side;
    if (entry?.isWanted !== true) {
      await this.#wantStopped();
      return;
    }
    await this.#countCheckpoints();
    if (phase === 'idle' && this.#link.vm === null && !this.#standby.isJoining) {
      this.#spec = entry.spec;
      if (entry.isPaused || this.#parts.now() < this.#startNotBefore) return;
      await this.#considerStart(entry);
      return;
    }
    if (phase === 'alone') this.#protection.consider(entry.isPaused);
    else if (phase === 'primary' && !entry.isPaused) await this.#protection.considerMoving();
  }

  // What the daemon's service asks for.

  /** Becomes the secondary of `request.from`. Throws ColoError when this host has a copy that is not idle. */
  async join(request: JoinRequest): Promise<JoinAnswer> {
    // It may be asking whether to start here.
    await this.#ticking;
    await this.#leaving();
    if (!this.isIdle) {
      throw new BusyError(
        `'${this.name}' has a copy on ${this.#parts.host} that is ${this.side.phase}: try again later`,
      );
    }
    this.#spec = request.spec;
    return this.#standby.join(request);
  }

  /** Whoever invites has gone on alone: a copy that is about to find that out is waited for. */
  async #leaving(): Promise<void> {
    const deadline = performance.now() + LEAVE_MS;
    const isLeaving = (): boolean =>
      this.side.phase === 'stopping' || this.side.phase === 'asking' || this.#givingWay.isUnderWay;
    await this.#until(() => !isLeaving() || performance.now() > deadline);
  }

  /** The primary is about to hand its guest over. Resolves when it is here and this side could take it over. */
  awaitCheckpoint(pairing: RecordId): Promise<void> {
    return this.#standby.awaitCheckpoint(pairing);
  }

  /** Planned: the primary steps aside. Resolves when this side is heard. */
  async takeOver(): Promise<void> {
    if (this.side.phase !== 'secondary') {
      throw new ColoError(`'${this.name}' is ${this.side.phase} on ${this.#parts.host}, not a secondary`);
    }
    this.#onPeerLost('planned switch-over', {});
    await this.#until(() => this.#life.state !== 'dissolving');
    if (this.#life.state === 'stopping' || this.isIdle)
      throw new ColoError(`'${this.name}' could not be taken over on ${this.#parts.host}`);
  }

  async leave(reason: string): Promise<void> {
    if (this.#standby.isJoining) await this.#standby.drop(reason);
    else if (this.side.phase === 'secondary') this.#end('beaten', reason);
    await this.#until(() => this.isIdle);
  }

  /** Everything of it on this host. Throws BusyError while there is something that runs. */
  async purge(): Promise<void> {
    if (!this.isIdle)
      throw new BusyError(`'${this.name}' is ${this.side.phase} on ${this.#parts.host}: colo down first`);
    await this.#parts.disks.remove();
  }

  report(): CopyReport {
    return {
      host: this.#parts.host,
      phase: this.side.phase,
      known: this.side.known,
      isProcessAlive: this.#link.vm !== null,
      disks: this.#parts.disks.kind,
    };
  }

  /** The next secondary is to be there. Resolves when the pair is whole. */
  protectBy(host: string): Promise<void> {
    return this.#protection.by(host);
  }

  /** Planned switch-over, from the primary's end. */
  async stepAside(): Promise<void> {
    const { phase, peer } = this.side;
    if (phase !== 'primary' || peer === null) {
      throw new ColoError(`'${this.name}' is not protected: there is no secondary to switch over to`);
    }
    await this.checkpoint();
    if (!this.#link.vm) throw new ColoError(`the process of '${this.name}' has ended`);
    await this.#givingWay.begin(this.#link.vm);
    try {
      await this.#parts.peer(peer).takeOver(this.name);
    } catch (error) {
      await this.#givingWay.undo();
      throw error;
    }
    // It finds out by itself, too; this is sooner.
    this.#onPeerLost('planned switch-over', {});
  }

  async checkpoint(): Promise<void> {
    const vm = this.#link.vm;
    const isProtected = (): boolean => this.side.phase === 'primary';
    if (!vm || !isProtected()) {
      throw new ColoError(`'${this.name}' is not protected: nothing to send a checkpoint to`);
    }
    if (!(await takeCheckpoint(vm, isProtected))) {
      throw new ColoError(`'${this.name}' lost its secondary during the checkpoint`);
    }
    await this.#countCheckpoints();
  }

  view(): VmView {
    return viewOf({
      host: this.#parts.host,
      spec: this.#spec,
      side: this.side,
      life: this.#life,
      lastEpoch: this.#lastEpoch,
      pid: this.#link.vm?.pid ?? null,
      entry: this.#entry,
      troubles: [this.#arbiterTrouble, this.#takingOver.trouble].filter((trouble) => trouble !== null),
      protecting: this.#protection.underWay,
      checkpoints: this.#checkpoints.view,
      lastFailover: this.#lastFailover,
    });
  }

  /** The daemon ends; the guest goes on. */
  close(): void {
    this.#isEnded = true;
    this.#driver.close();
    this.#watch.stop();
    this.#protection.abandon('the daemon is ending');
    this.#standby.close();
    this.#link.detach();
  }

  // Starting and stopping.

  async #considerStart(entry: VmEntry): Promise<void> {
    const answer = await mayStart(entry, this.#parts);
    // Nobody speaks after that record: what this host tells counts.
    if (answer.memberSince !== null) this.#lastEpoch = answer.memberSince;
    if (answer.may) {
      this.#step('start', answer.reason ?? 'may start here');
      this.#driver.feed({ type: 'start' });
      return;
    }
    this.#startNotBefore = this.#parts.now() + this.#startAgain.next();
    if (answer.reason !== null) this.#step('refused', answer.reason);
  }

  async #startGuest(): Promise<void> {
    const parts = this.#parts;
    const known = this.side.known;
    const isMeant = (): boolean => this.side.phase === 'alone';
    try {
      if (!known) throw new ColoError('the arbiter has not let it start');
      this.#protection.guestStarted();
      const disks = await parts.disks.forStart(this.#spec, known);
      if (!isMeant()) return;
      const vm = await parts.room.startPrimary(this.#spec, disks);
      // The next daemon finds it.
      if (this.#isEnded) return;
      if (!isMeant()) {
        await vm.kill();
        return;
      }
      this.#link.attach(vm);
      await vm.qmp.execute('cont');
      this.#startAgain.reset();
      this.#step('started', `runs on ${parts.host}`);
    } catch (error) {
      if (this.#isEnded || !isMeant()) return;
      log.error({ vm: this.name, err: error }, 'start');
      this.#startNotBefore = parts.now() + this.#startAgain.next();
      this.#end('refused', messageOf(error));
    }
  }

  /** Not wanted any more, or not known any more. */
  async #wantStopped(): Promise<void> {
    const { phase, peer } = this.side;
    if (phase === 'idle' && this.#link.vm === null) {
      if (this.#life.state === 'blocked') this.#end('stop', 'not wanted');
      return;
    }
    if (phase === 'primary' && peer !== null) await this.#protection.sendPeerAway('the VM is being stopped');
    if (this.side.phase === 'joining') {
      await this.#standby.drop('not wanted');
      return;
    }
    // A secondary is told by its primary; without one it ends when that counts as lost (#onPeerLost).
    if (this.side.phase === 'secondary') return;
    if (this.side.phase === 'alone' || this.side.phase === 'arming') {
      this.#protection.callOff('the VM is being stopped');
      this.#end('stop', 'not wanted');
    }
  }

  async #discard(): Promise<void> {
    if (this.#isDiscarding) return;
    this.#isDiscarding = true;
    try {
      this.#watch.stop();
      this.#protection.abandon('this side is being discarded');
      const vm = this.#link.vm;
      const hasGivenWay = await this.#givingWay.isDone(vm);
      if (vm) {
        if (hasGivenWay || (this.#life.state === 'stopping' && this.#entry?.isWanted === false))
          await quit(vm);
        await vm.kill();
        this.#forget();
        if (hasGivenWay) await this.#takingOver.note({ type: 'gave-way' });
      }
      // Whatever comes next must not meet its process, nor what it does to the disks.
      await this.#becomingHeard;
    } finally {
      this.#isDiscarding = false;
      this.#driver.feed({ type: 'guest-stopped' });
      this.#driver.reset(this.#freshSide());
      this.#parts.saveSide(null);
      this.#step('stopped', this.#life.reason);
      this.#parts.publish();
    }
  }

  /** Leads out of every phase: the guest is stopped, the side is idle in the end. */
  #end(event: LifeEvent, reason: string): void {
    this.#step(event, reason);
    this.#driver.feed({ type: 'stop' });
    // There was no guest to be stopped.
    if (this.side.phase === 'idle') this.#step('stopped', reason);
  }

  #refuse(reason: string): void {
    this.#startNotBefore = this.#parts.now() + this.#startAgain.next();
    this.#step('refused', reason);
  }

  // Failover.

  #onPeerLost(reason: string, data: Readonly<Record<string, unknown>>): void {
    const { phase, peer } = this.side;
    if (phase !== 'primary' && phase !== 'secondary' && phase !== 'pairing') return;
    if (phase === 'secondary' && this.#entry?.isWanted === false) {
      this.#end('stop', 'not wanted');
      return;
    }
    this.#parts.tell({ type: 'peer-lost', reason, data: { peer, role: ROLES[phase], ...data } });
    this.#step('lost', reason);
    if (phase === 'secondary' && this.#link.vm) this.#takingOver.prepare(this.#link.vm);
    this.#driver.feed({ type: 'peer-lost' });
  }

  async #takeOver(): Promise<void> {
    const parts = this.#parts;
    const vm = this.#link.vm;
    const known = this.side.known;
    const reason = this.#life.reason;
    if (!vm || !known) {
      this.#end('died', 'the process is gone');
      return;
    }
    const from = this.#watch.peer ?? '';
    const wasSecondary = this.#watch.role === 'secondary';
    this.#watch.stop();
    try {
      if (wasSecondary) await this.#takingOver.ofSecondary(vm, this.#spec, known);
      else await this.#takingOver.ofPrimary(vm, this.#spec, known);
    } catch (error) {
      log.error({ vm: this.name, err: error }, 'take-over');
      this.#end('died', messageOf(error));
      return;
    }
    this.#protection.wentOn({ wasSecondary });
    if (wasSecondary) {
      this.#lastFailover = { atMs: Date.now(), from, to: parts.host, reason };
      parts.tell({ type: 'failover', reason, data: { from, to: parts.host, epoch: known.epoch } });
    }
    this.#step('won', reason);
  }

  /** The daemon before this one had won, and may have ended before the guest was heard, or all was tidied up. */
  async #finishBecomingHeard(vm: RunningVm): Promise<void> {
    const { known } = this.side;
    try {
      if (known && (await isFollower(vm))) await this.#takingOver.ofSecondary(vm, this.#spec, known);
      else if (await hasNeverRun(vm)) await vm.qmp.execute('cont');
    } catch (error) {
      log.error({ vm: this.name, err: error }, 'take-over');
      this.#end('died', messageOf(error));
    }
  }

  // Bookkeeping.

  #onSide(before: Side, after: Side): void {
    const { phase } = after;
    if (after.known) this.#lastEpoch = after.known.epoch;
    if (phase === 'primary' && before.phase === 'pairing') {
      this.#protection.whole();
      this.#step('whole', `${after.peer ?? ''} holds a whole checkpoint`);
      this.#watch.start('primary', after.peer ?? '');
    }
    if (phase === 'secondary' && before.phase === 'joining') {
      this.#watch.start('secondary', after.peer ?? '');
    }
    if (phase === 'alone' && before.phase === 'asking' && before.swap?.isFromDisk === false) {
      this.#protection.parted(before.swap.expected, before.peer);
    }
    if (phase === 'primary' && after.known) {
      void this.#takingOver.note({ type: 'holds', of: after.known });
    }
    if (phase === 'stopping' && before.phase !== 'stopping' && this.#life.state !== 'stopping') {
      this.#step('beaten', 'the other side goes on alone');
    }
    if (phase === 'alone' && (before.phase === 'arming' || before.phase === 'pairing')) {
      void this.#protection.undo('the secondary was lost before the pair was whole');
    }
    if (phase === 'idle' && before.phase === 'asking') this.#refuse('another host was faster');
    this.#parts.publish();
  }

  #onArbiter(trouble: string | null): void {
    if (trouble === this.#arbiterTrouble) return;
    this.#arbiterTrouble = trouble;
    this.#parts.tell(
      trouble === null
        ? { type: 'arbiter-back', reason: 'the arbiter answers again' }
        : { type: 'arbiter-unreachable', reason: trouble },
    );
    this.#parts.publish();
  }

  #step(event: LifeEvent, reason: string): void {
    const after = live(this.#life, event, reason, Date.now());
    if (!after) return;
    this.#life = after.life;
    this.#parts.tell({ type: 'state', ...after.change });
    this.#parts.publish();
  }

  #onVmEvent(event: QmpEvent): void {
    if (isGuestShutdown(event)) {
      this.#parts.tell({ type: 'guest-shutdown', reason: 'the guest has powered itself off' });
      this.#parts.guestEnded();
    }
    this.#givingWay.onVmEvent(event);
    if (event.event === RECONNECTED) void this.#askVm();
    else this.#watch.onVmEvent(event);
  }

  /** What was missed while the connection to its monitor was gone, or the daemon was. */
  async #askVm(): Promise<void> {
    const vm = this.#link.vm;
    if (!vm) return;
    try {
      await this.#watch.ask(vm.qmp);
    } catch (error) {
      log.warn({ vm: this.name, err: error }, 'the VM does not tell its state');
    }
  }

  #onExit({ pid }: RunningVm, { code, signal, lastWords }: VmExit): void {
    this.#watch.stop();
    if (this.#isDiscarding || this.#isEnded) return;
    const how = signal ?? (code === null ? 'gone' : `exit code ${code}`);
    this.#parts.tell({
      type: 'process-died',
      reason: `the process of this copy has ended (${how})${lastWords === '' ? '' : `: ${lastWords}`}`,
      data: { pid, code, signal },
    });
    if (this.#standby.isJoining) void this.#standby.drop(`its process has ended: ${lastWords}`);
    else this.#end('died', `its process has ended (${how})`);
  }

  #forget(): void {
    this.#link.detach();
    this.#watch.stop();
  }

  async #countCheckpoints(): Promise<void> {
    if (this.#link.vm && this.side.phase === 'primary') await this.#checkpoints.look(this.#link.vm.qmp);
  }

  #freshSide(): Side {
    return newSide(this.#parts.host, `${this.#parts.host}.${randomBytes(6).toString('hex')}`);
  }

  /** Looks at every change of the life; there is always one to come, or the daemon ends. */
  async #until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      if (this.#isEnded) throw new ColoError('the daemon is ending');
      await pause(20);
    }
  }
}
