/**
 * The engine on a stock QEMU, 7.2 or newer, KVM or TCG, behind the engine contract. Guest RAM is shared memory that the
 * QEMU processes and we all map; a snapshot is the changed pages and QEMU's own stream of its devices' state.
 *
 * QEMU takes a machine's state only before it has run. So a machine that expects checkpoints (`incoming`) keeps a
 * second process waiting on the same RAM, and a load swaps the two: the old one is killed, the pages are put right, the
 * new one gets the device state and runs the guest. Disks, NICs and serial ports are at our sockets and stay.
 */
import { createHash } from 'node:crypto';
import { ClosedError, ColoError, ProtocolError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { QmpEvent } from '../../qmp/types.ts';
import type {
  CaptureOptions,
  Engine,
  EngineEvents,
  EngineMonitor,
  EngineState,
  Snapshot,
} from '../engine.ts';
import { RamFile, RamSnapshots } from '../ram/index.ts';
import { qemuArgs } from './args.ts';
import { QemuChild } from './child.ts';
import { decodeDevice, encodeDevice } from './device-codec.ts';
import { DiskPort } from './disk-port.ts';
import { ChildPorts, QemuNic, QemuSerial } from './ports.ts';
import type { QemuSpec } from './spec.ts';
import { StateOutlet, awaitState, feedState, prepareMigration } from './state.ts';
import { Workplace } from './workplace.ts';

const log = loggerFor('engine-qemu');

/** A QEMU process with all that belongs to it alone. */
interface Machine {
  readonly child: QemuChild;
  readonly ports: ChildPorts;
  readonly outlet: StateOutlet;
  /** Where it waits for a state; null once it has one. */
  incomingPath: string | null;
  /** We ended it: its end is no failure. */
  isRetired: boolean;
}

/** QEMU's events that tell of what we ourselves do with it. */
const OWN_EVENTS = new Set(['STOP', 'RESUME', 'MIGRATION', 'MIGRATION_PASS', 'SHUTDOWN', 'RESET']);

export class QemuEngine implements Engine, EngineMonitor {
  readonly engineName = 'qemu';
  readonly ramBytes: number;
  readonly nics: readonly QemuNic[];
  readonly serials: readonly QemuSerial[];
  onShutdown: EngineEvents['onShutdown'] = null;
  onEvent: EngineMonitor['onEvent'] = null;
  commands: ReadonlySet<string> = new Set();
  readonly #spec: QemuSpec;
  #state: EngineState = 'created';
  #buildId = '';
  #workplace: Workplace | null = null;
  #ram: RamFile | null = null;
  #snapshots: RamSnapshots | null = null;
  #disks: DiskPort | null = null;
  #machine: Machine | null = null;
  #standby: Promise<Machine> | null = null;
  #children = 0;

  constructor(spec: QemuSpec) {
    this.#spec = spec;
    this.ramBytes = spec.ramBytes;
    this.nics = spec.nics.map((nic) => new QemuNic(nic));
    this.serials = Array.from({ length: Math.max(1, spec.serialPorts) }, () => new QemuSerial());
  }

  get state(): EngineState {
    return this.#state;
  }

  get buildId(): string {
    return this.#buildId;
  }

  get serial(): QemuSerial {
    return this.serials[0]!;
  }

  get monitor(): EngineMonitor {
    return this;
  }

  /** The process that runs the guest; 0: none. */
  get pid(): number {
    return this.#machine?.child.pid ?? 0;
  }

  async start(): Promise<void> {
    if (this.#state !== 'created') throw new ColoError(`engine qemu: start in state ${this.#state}`);
    try {
      this.#workplace = await Workplace.create();
      this.#ram = RamFile.create(`guest ${this.#spec.name}`, this.ramBytes);
      this.#snapshots = await RamSnapshots.open(this.#ram);
      this.#disks = await DiskPort.open(this.#workplace.path('nbd'), this.#spec.disks);
      this.#buildId = this.#hashBuild();
      const machine = await this.#launch();
      await this.#adopt(machine);
      this.#state = 'paused';
      this.commands = await commandNames(machine.child);
    } catch (error) {
      await this.stop();
      throw new ColoError(`engine qemu: the machine cannot be built: ${messageOf(error)}`, { cause: error });
    }
  }

  async pause(): Promise<void> {
    if (this.#state === 'paused') return;
    this.#mustBe('pause', 'running');
    const { child } = this.#current();
    // What was sent to the guest so far shall be in the state that stands: QEMU has been round its main loop once
    // more when this is answered.
    for (const nic of this.nics) nic.flush();
    await child.execute('query-status');
    await child.execute('stop');
    if (this.#is('running')) this.#state = 'paused';
    // What the guest said before lies in our sockets; a turn of the event loop reads it.
    await nextTurn();
    await nextTurn();
  }

  async resume(): Promise<void> {
    if (this.#state === 'running') return;
    this.#mustBe('resume', 'paused');
    const { child, incomingPath } = this.#current();
    if (incomingPath !== null) throw new ColoError('engine qemu: the machine waits for a state');
    this.#state = 'running';
    await child.execute('cont');
  }

  async reset(): Promise<void> {
    this.#mustBe('reset', 'paused', 'running');
    await this.#current().child.execute('system_reset');
  }

  async capture(options: CaptureOptions): Promise<Snapshot> {
    const ramOnly = options.ramOnly ?? false;
    if (ramOnly) this.#mustBe('capture', 'paused', 'running');
    else this.#mustBe('capture', 'paused');
    const { outlet } = this.#current();
    const [ram, device] = await Promise.all([
      this.#memory().capture({ full: options.full }),
      ramOnly ? null : outlet.capture(),
    ]);
    return {
      ram: ram.ram,
      device: device ? encodeDevice(ram.id, device) : new Uint8Array(0),
      pages: ram.pages,
    };
  }

  async load(snapshots: readonly Snapshot[]): Promise<void> {
    this.#mustBe('load', 'paused');
    if (snapshots.length === 0) return;
    const memory = this.#memory();
    const changes = memory.check(snapshots.map(({ ram }) => ram));
    const last = snapshots.findLast(({ device }) => device.byteLength > 0);
    if (!last) throw new ProtocolError('snapshot: the state of the devices is missing');
    const state = decodeDevice(last.device, changes[snapshots.indexOf(last)]!.id);
    const before = this.#current();
    const next = before.incomingPath === null ? await this.#takeStandby() : before;
    if (next !== before) await this.#discard(before);
    await memory.load(changes);
    await feedState(next.child, next.incomingPath!, state);
    next.incomingPath = null;
    if (next !== before) await this.#adopt(next);
    this.#prepareStandby();
  }

  async execute(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    return this.#current().child.execute(command, args);
  }

  async stop(): Promise<void> {
    if (this.#state !== 'failed') this.#state = 'stopped';
    const machine = this.#machine;
    const standby = this.#standby;
    this.#machine = null;
    this.#standby = null;
    for (const port of [...this.nics, ...this.serials]) port.attach(null);
    if (machine) await this.#discard(machine);
    await standby?.then(
      (waiting) => this.#discard(waiting),
      () => undefined,
    );
    await this.#disks?.close();
    await this.#snapshots?.close();
    this.#ram?.close();
    this.#workplace?.remove();
    this.#disks = this.#snapshots = this.#ram = this.#workplace = null;
  }

  #is(state: EngineState): boolean {
    return this.#state === state;
  }

  #mustBe(verb: string, ...states: EngineState[]): void {
    if (!states.includes(this.#state)) throw new ColoError(`engine qemu: ${verb} in state ${this.#state}`);
  }

  #current(): Machine {
    if (!this.#machine) throw new ClosedError('engine qemu: there is no machine');
    return this.#machine;
  }

  #memory(): RamSnapshots {
    if (!this.#snapshots) throw new ClosedError('engine qemu: there is no machine');
    return this.#snapshots;
  }

  /** Starts a process on our RAM, disks, NICs and serial ports; it stands still. */
  async #launch(): Promise<Machine> {
    const spec = this.#spec;
    const workplace = this.#workplace;
    const disks = this.#disks;
    if (!workplace || !disks || !this.#ram) throw new ClosedError('engine qemu: stopped');
    const folder = workplace.part(String(this.#children++));
    const ports = new ChildPorts(folder, spec.nics.length + spec.serialPorts);
    await ports.listen();
    let child: QemuChild | null = null;
    try {
      const args = qemuArgs(spec, disks, folder);
      child = await QemuChild.start({ binary: spec.qemu.binary, args, ramFd: this.#ram.fd, folder });
      await prepareMigration(child);
      const outlet = await StateOutlet.open(child, `${folder}/out`);
      const incomingPath = spec.incoming ? `${folder}/in` : null;
      if (incomingPath !== null) await awaitState(child, incomingPath);
      return { child, ports, outlet, incomingPath, isRetired: false };
    } catch (error) {
      ports.close();
      await child?.kill();
      throw error;
    }
  }

  /** The process runs the guest from now on. */
  async #adopt(machine: Machine): Promise<void> {
    this.#machine = machine;
    const sockets = await machine.ports.sockets();
    [...this.nics, ...this.serials].forEach((port, at) => port.attach(sockets[at] ?? null));
    machine.child.onEvent = (event) => this.#onEvent(event);
    void machine.child.ended.then((error) => {
      if (!machine.isRetired) this.#failed(error);
    });
  }

  async #discard(machine: Machine): Promise<void> {
    const { child, ports, outlet } = machine;
    machine.isRetired = true;
    await child.kill();
    outlet.close();
    ports.close();
  }

  async #takeStandby(): Promise<Machine> {
    this.#prepareStandby();
    const standby = await this.#standby!;
    this.#standby = null;
    return standby;
  }

  #prepareStandby(): void {
    if (!this.#spec.incoming) throw new ColoError('engine qemu: only a machine with -incoming takes a state');
    if (this.#standby) return;
    this.#standby = this.#launch();
    this.#standby.catch((error: unknown) => {
      log.error({ err: error }, 'the QEMU that is to take the next checkpoint cannot be started');
      this.#standby = null;
    });
  }

  #onEvent({ event, data }: QmpEvent): void {
    if (event === 'RESET' && data['guest'] === true) this.onShutdown?.('guest-reset');
    if (event === 'SHUTDOWN' && data['guest'] === true) {
      if (this.#state === 'running') this.#state = 'paused';
      this.onShutdown?.('guest-shutdown');
    }
    if (!OWN_EVENTS.has(event)) this.onEvent?.(event, data);
  }

  #failed(error: Error): void {
    this.#state = 'failed';
    log.error({ err: error }, 'the machine failed');
    this.onShutdown?.('failed', error);
  }

  #hashBuild(): string {
    const { qemu, machine, identity, ramBytes, disks, nics } = this.#spec;
    const alike = {
      version: qemu.version,
      machine,
      identity,
      ramBytes,
      disks: disks.map(({ disk, how, options }) => [disk.id, how, options]),
      nics: nics.map(({ id, netdev, mac }) => [id, netdev, Buffer.from(mac).toString('hex')]),
    };
    return createHash('sha256').update(JSON.stringify(alike)).digest('hex').slice(0, 32);
  }
}

async function commandNames(child: QemuChild): Promise<ReadonlySet<string>> {
  const answer = (await child.execute('query-commands')) as { name: string }[];
  return new Set(answer.map(({ name }) => name));
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
