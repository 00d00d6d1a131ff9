/**
 * The engine on a stock QEMU, 7.2 or newer, KVM or TCG, behind the engine contract. Guest RAM is shared memory that the
 * QEMU processes and we all map; a snapshot is the changed pages and QEMU's own stream of its devices' state.
 *
 * QEMU takes a machine's state only before it has run. So a machine that expects checkpoints (`incoming`) keeps a
 * second process waiting on the same RAM, and a load swaps the two: the old one is killed, the pages are put right, the
 * new one gets the device state and runs the guest. Disks, NICs and serial ports are at our sockets and stay. Whatever
 * can be refused is refused before the old one is killed; a load that fails later leaves no whole state: `failed`.
 */
import type { Socket } from 'node:net';
import { ClosedError, ColoError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type {
  CaptureOptions,
  Engine,
  EngineDisplay,
  EngineEvents,
  EngineState,
  Snapshot,
} from '../engine.ts';
import { SoftDirtyTracker, whyNoSoftDirty } from '../ram/index.ts';
import { buildParts, hashParts, tellableParts } from './build.ts';
import type { QemuChild } from './child.ts';
import { DeviceHistory } from './device-history.ts';
import { QemuMachine } from './machine.ts';
import { QemuMonitor } from './monitor.ts';
import { QemuNic, QemuSerial } from './ports.ts';
import { QemuRefusedError } from './refusal.ts';
import type { QemuSpec } from './spec.ts';
import { Standby } from './standby.ts';
import { closeSurroundings, openSurroundings } from './surroundings.ts';
import type { Surroundings } from './surroundings.ts';

const log = loggerFor('engine-qemu');

/** The state machine: from where to where. What is not here does not happen, however calls and deaths overlap. */
const NEXT: Readonly<Record<EngineState, readonly EngineState[]>> = {
  created: ['paused', 'stopped'],
  paused: ['running', 'stopped', 'failed'],
  running: ['paused', 'stopped', 'failed'],
  failed: [],
  stopped: [],
};

export class QemuEngine implements Engine {
  readonly engineName = 'qemu';
  readonly ramBytes: number;
  readonly nics: readonly QemuNic[];
  readonly serials: readonly QemuSerial[];
  onShutdown: EngineEvents['onShutdown'] = null;
  onStopped: EngineEvents['onStopped'] = null;
  onResumed: EngineEvents['onResumed'] = null;
  readonly monitor = new QemuMonitor({
    onBegin: () => this.#machine?.begins(),
    onSelfStop: (state) => this.#stoppedByItself(state),
    onSelfResume: () => {
      if (this.#enter('running')) this.#machine?.begins();
      this.onResumed?.();
    },
    onShutdown: (cause) => {
      this.#enter('paused');
      this.onShutdown?.('guest-shutdown', undefined, cause);
    },
  });
  readonly display?: EngineDisplay;
  readonly #spec: QemuSpec;
  #state: EngineState = 'created';
  #buildId = '';
  #around: Surroundings | null = null;
  #machine: QemuMachine | null = null;
  readonly #devices = new DeviceHistory();
  readonly #standby = new Standby(() => this.#launch());
  /** All that have been started and have not ended. */
  readonly #children = new Set<QemuChild>();
  /** The owner's call that is under way. Never rejects. */
  #work: Promise<unknown> | null = null;
  #stopping: Promise<void> | null = null;
  #isLoading = false;
  /** The clock is in the state of the devices (guest-clock.ts). */
  #hasMovableClock = false;

  constructor(spec: QemuSpec) {
    this.#spec = spec;
    this.ramBytes = spec.ramBytes;
    this.nics = spec.nics.map((nic) => new QemuNic(nic));
    if ((spec.vnc ?? null) !== null) {
      const connect = async (): Promise<Socket> => {
        await this.monitor.ready('vnc');
        return await this.#current().connectDisplay();
      };
      this.display = { connect };
    }
    this.serials = [
      ...Array.from({ length: spec.serialPorts }, () => new QemuSerial()),
      ...spec.chardevs.map((id) => new QemuSerial(id)),
    ];
  }

  get state(): EngineState {
    return this.#state;
  }

  get buildId(): string {
    return this.#buildId;
  }

  get buildParts(): readonly string[] {
    return tellableParts(buildParts(this.#spec));
  }

  /** The process that runs the guest; 0: none. */
  get pid(): number {
    return this.#machine?.child.pid ?? 0;
  }

  /** All processes of this engine, for those who look after them. */
  get pids(): readonly number[] {
    return Array.from(this.#children, ({ pid }) => pid);
  }

  start(): Promise<void> {
    return this.#alone('start', ['created'], async () => {
      try {
        await this.#build();
      } catch (error) {
        // Not stop(): that waits for this.
        this.#enter('stopped');
        await this.#free();
        if (error instanceof QemuRefusedError) throw error;
        throw new ColoError(`engine qemu: the machine cannot be built: ${messageOf(error)}`, {
          cause: error,
        });
      }
    });
  }

  async preparePause(): Promise<void> {
    if (this.#state === 'running') await this.#around?.disks.flushAhead();
  }

  async pause(): Promise<void> {
    if (this.#state === 'paused') return;
    await this.#alone('pause', ['running'], async () => {
      this.#current();
      for (const nic of this.nics) nic.flush();
      await this.monitor.stop();
      this.#enter('paused');
      // What the guest said before lies in our sockets; a turn of the event loop reads it.
      await nextTurn();
      await nextTurn();
      this.#mustBe('pause', 'paused');
    });
  }

  /** How late the guest is has been told to `load`: the clock is part of what QEMU is fed. */
  async resume(): Promise<void> {
    if (this.#state === 'running') return;
    await this.#alone('resume', ['paused'], async () => {
      const machine = this.#current();
      if (machine.isWaiting) throw new ColoError('engine qemu: the machine waits for a state');
      // Before it runs: it may stop by itself at once, and that is told before the answer.
      this.#enter('running');
      machine.begins();
      try {
        await this.monitor.cont();
        this.#devices.runs();
      } catch (error) {
        this.#enter('paused');
        throw error;
      }
    });
  }

  async reset(): Promise<void> {
    this.#mustBe('reset', 'paused', 'running');
    const machine = this.#current();
    machine.begins();
    await machine.child.execute('system_reset');
  }

  capture(options: CaptureOptions): Promise<Snapshot> {
    const { full, ramOnly = false, maxPages } = options;
    return this.#alone('capture', ramOnly ? ['paused', 'running'] : ['paused'], async () => {
      const machine = this.#current();
      if (machine.isWaiting) throw new ColoError('engine qemu: the machine waits for a state');
      const [ram, device] = await bothOf(
        this.#memory().capture({ full, isStill: !ramOnly, ...(maxPages === undefined ? {} : { maxPages }) }),
        ramOnly ? Promise.resolve(null) : machine.captureState(),
      );
      if (full) this.#devices.forget();
      const { pages, more } = ram;
      if (!device) return { ram: ram.ram, device: new Uint8Array(0), pages, more };
      return { ram: ram.ram, device: this.#devices.encode({ id: ram.id, stream: device }), pages, more };
    });
  }

  stage({ ram }: Snapshot): Promise<void> {
    return this.#alone('stage', ['paused'], async () => {
      const memory = this.#memory();
      await memory.stage(memory.check([ram]));
    });
  }

  /** Ends when a load can begin. Throws ColoError when it could not: nothing has changed then. */
  async prepareLoad(): Promise<void> {
    if (!this.#current().isWaiting) await this.#standby.wait();
  }

  load(snapshots: readonly Snapshot[], lateMs?: () => number): Promise<void> {
    return this.#alone('load', ['paused'], async () => {
      if (snapshots.length === 0) return;
      if (!this.#spec.incoming)
        throw new ColoError('engine qemu: only a machine with -incoming takes a state');
      const memory = this.#memory();
      const changes = memory.check(snapshots.map(({ ram }) => ram));
      const state = this.#devices.decode(snapshots, changes);
      const before = this.#current();
      const next = before.isWaiting ? before : await this.#standby.take();
      try {
        this.#mustBe('load', 'paused');
        this.#isLoading = true;
        if (next !== before) {
          this.monitor.detach();
          this.#adopt(next);
        }
        // The one before stands still, and its page tables say what its guest wrote; those of the next one say what a
        // state writes as it is fed.
        await memory.load(changes, this.#trackerOf(next));
        const stream =
          lateMs && this.#hasMovableClock ? this.#devices.caughtUp(state, lateMs()) : state.stream;
        await bothOf(next.feed(stream), next === before ? Promise.resolve() : before.retire());
        await this.monitor.attach(next.child);
        this.#devices.loaded(state);
        if (next.child.isOver) throw await next.child.ended;
        this.#mustBe('load', 'paused');
      } catch (error) {
        await bothOf(next.retire(), before.retire());
        this.#failed(new ColoError('a state could not be loaded', { cause: error }));
        throw error;
      } finally {
        this.#isLoading = false;
      }
      this.#standby.prepare();
    });
  }

  stop(): Promise<void> {
    this.#enter('stopped');
    this.#stopping ??= this.#end();
    return this.#stopping;
  }

  async #end(): Promise<void> {
    this.monitor.close(new ClosedError('engine qemu: stopped'));
    // Whatever is under way ends with the processes that it talks to.
    for (const child of this.#children) void child.kill();
    await this.#work;
    await this.#free();
  }

  async #free(): Promise<void> {
    for (const port of [...this.nics, ...this.serials]) port.attach(null);
    const standby = this.#standby.close();
    await this.#machine?.retire();
    await Promise.all(Array.from(this.#children, (child) => child.kill()));
    await standby;
    this.#machine = null;
    const around = this.#around;
    this.#around = null;
    if (around) await closeSurroundings(around);
  }

  async #build(): Promise<void> {
    const spec = this.#spec;
    this.#buildId = hashParts(buildParts(spec));
    this.#around = await openSurroundings(spec);
    const machine = await this.#launch();
    this.#adopt(machine);
    await this.monitor.attach(machine.child);
    this.#memory().track(this.#trackerOf(machine));
    const kvm = (await machine.child.execute('query-kvm')) as { enabled: boolean };
    this.#hasMovableClock = !kvm.enabled;
    if (!this.#enter('paused')) throw new ClosedError('it was stopped');
  }

  /** Goes there if that may be; false: it may not, the machine is over. */
  #enter(state: EngineState): boolean {
    if (!NEXT[this.#state].includes(state)) return false;
    this.#state = state;
    return true;
  }

  #mustBe(verb: string, ...states: EngineState[]): void {
    if (!states.includes(this.#state)) throw new ColoError(`engine qemu: ${verb} in state ${this.#state}`);
  }

  /** Runs one of the owner's calls, which do not overlap. */
  async #alone<T>(verb: string, states: EngineState[], act: () => Promise<T>): Promise<T> {
    this.#mustBe(verb, ...states);
    if (this.#work) throw new ColoError(`engine qemu: ${verb} while another call is under way`);
    const work = act();
    this.#work = work.catch(() => undefined);
    try {
      return await work;
    } finally {
      this.#work = null;
    }
  }

  #current(): QemuMachine {
    if (!this.#machine || this.#state === 'stopped' || this.#state === 'failed') {
      throw new ClosedError('engine qemu: there is no machine');
    }
    return this.#machine;
  }

  #memory(): Surroundings['snapshots'] {
    if (!this.#around) throw new ClosedError('engine qemu: there is no machine');
    return this.#around.snapshots;
  }

  async #launch(): Promise<QemuMachine> {
    if (!this.#around || this.#stopping) throw new ClosedError('engine qemu: stopped');
    return await QemuMachine.launch(this.#around, (child) => {
      this.#children.add(child);
      void child.ended.then(() => this.#children.delete(child));
    });
  }

  /** The process runs the guest from now on. */
  #adopt(machine: QemuMachine): void {
    this.#machine = machine;
    [...this.nics, ...this.serials].forEach((port, at) => port.attach(machine.ports[at] ?? null));
    void machine.child.ended.then((error) => {
      // In a load that is the load's own failure.
      if (machine === this.#machine && !machine.isRetired && !this.#isLoading) this.#failed(error);
    });
  }

  /** Where the kernel can say which pages a process has written, most need not be compared. */
  #trackerOf({ child }: QemuMachine): SoftDirtyTracker | null {
    // A page that a balloon gave back is zero without having been written.
    if (this.#spec.args.some((arg) => arg.includes('balloon')) || whyNoSoftDirty() !== null) return null;
    try {
      return this.#around && SoftDirtyTracker.open(child.pid, this.#around.ram);
    } catch (error) {
      log.info({ err: error }, 'all of the guest’s RAM is compared at each checkpoint');
      return null;
    }
  }

  /** An I/O error (werror=stop), a watchdog, a panic; or QEMU has given the guest up. */
  #stoppedByItself(state: string): void {
    if (state === 'internal-error') {
      this.#failed(new ColoError('qemu gave the guest up: internal-error'));
      return;
    }
    this.#enter('paused');
    this.onStopped?.(state);
  }

  #failed(error: Error): void {
    if (!this.#enter('failed')) return;
    this.monitor.close(error);
    log.error({ err: error }, 'the machine failed');
    this.onShutdown?.('failed', error);
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Both, once neither is under way any more. Throws what failed first in this order. */
async function bothOf<A, B>(a: Promise<A>, b: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([a, b]);
  return await Promise.all([a, b]);
}
