/**
 * A QEMU process with all that belongs to it alone: its ends of the guest's NICs and serial ports, the pipe at which it
 * waits for a state. Of the sides of an engine's sockets that do not change with the process it is told by `Surroundings`.
 */
import { closeSync } from 'node:fs';
import net from 'node:net';
import { ClosedError } from '../../base/errors.ts';
import { pipedNics, qemuArgs } from './args.ts';
import { CHILD_FD, QemuChild } from './child.ts';
import type { ChildPlan } from './child.ts';
import { hideSocket, pathOfFd } from './hidden-socket.ts';
import type { HiddenListener } from './hidden-socket.ts';
import { captureState, feedState, prepareMigration } from './state.ts';
import type { Surroundings } from './surroundings.ts';
import { VhostPort } from './vhost/port.ts';

export class QemuMachine {
  readonly child: QemuChild;
  /** NICs, then serial ports. */
  readonly ports: readonly (net.Socket | VhostPort)[];
  readonly #outlet: HiddenListener;
  /** Its VNC server's socket. */
  #vncFd: number | null;
  #incoming: net.Socket | null = null;
  /** Its state, while it stands still after it was captured. */
  #state: Buffer | null = null;
  #isRetired = false;
  readonly #vhost: readonly VhostPort[];

  private constructor(
    child: QemuChild,
    { spec, outlet }: Surroundings,
    vncFd: number | null,
    vhost: readonly VhostPort[],
  ) {
    this.child = child;
    this.#vncFd = vncFd;
    this.#outlet = outlet;
    const pipes = [...child.pipes];
    if (spec.incoming) this.#incoming = pipes.shift() ?? null;
    const sockets = [...vhost];
    const nics = spec.nics.map(({ isVirtio }) => (isVirtio === true ? sockets.shift() : pipes.shift()));
    this.ports = [...nics.filter((one) => one !== undefined), ...pipes];
    this.#vhost = vhost;
  }

  /** Starts a process; it stands still. `onSpawn` has the child from its first moment. Throws ColoError. */
  static async launch(around: Surroundings, onSpawn: (child: QemuChild) => void): Promise<QemuMachine> {
    const { spec, ram, disks, control, outlet } = around;
    const pipes = (spec.incoming ? 1 : 0) + pipedNics(spec) + spec.serialPorts + spec.chardevs.length;
    const vhost = await openVhostPorts(around);
    const plan = (vncPath: string | null): ChildPlan => ({
      binary: spec.qemu.binary,
      args: qemuArgs(spec, disks, vncPath),
      ramFd: ram.fd,
      disksFd: disks.fd,
      stateFd: outlet.fd,
      control,
      pipes,
      vhostFds: vhost.map(({ fd }) => fd),
    });
    const started: QemuChild[] = [];
    const start = async (vncPath: string | null): Promise<QemuChild> => {
      const child = await QemuChild.start(plan(vncPath), onSpawn);
      started.push(child);
      return child;
    };
    let vncFd: number | null = null;
    try {
      if ((spec.vnc ?? null) !== null) vncFd = await hideSocket(start);
      const child = started[0] ?? (await start(null));
      for (const port of vhost) port.handedOver();
      await prepareMigration(child, spec.incoming ? CHILD_FD.pipes : null);
      return new QemuMachine(child, around, vncFd, vhost);
    } catch (error) {
      for (const child of started) await child.kill();
      for (const port of vhost) port.close();
      if (vncFd !== null) closeSync(vncFd);
      throw error;
    }
  }

  /** It was started to take a state, and has none yet. */
  get isWaiting(): boolean {
    return this.#incoming !== null;
  }

  /** We ended it: its end is no failure. */
  get isRetired(): boolean {
    return this.#isRetired;
  }

  /** The state of the devices. It stands still, and has done so since `begins` was called last. */
  async captureState(): Promise<Buffer> {
    // QEMU migrates a machine once each time that it has run ("Can't migrate the vm that was paused due to previous
    // migration"); what stands still has the same state the second time.
    return (this.#state ??= await captureState(this.child, this.#outlet));
  }

  /** Something is about to change the state of the devices: it runs, or is told to do something. */
  begins(): void {
    this.#state = null;
  }

  /** Throws ProtocolError when it does not take the state; it is of no use then. */
  async feed(state: Uint8Array): Promise<void> {
    if (!this.#incoming) throw new ClosedError('qemu has a state already');
    await feedState(this.child, this.#incoming, state);
    this.#incoming = null;
  }

  /** A connection to its VNC server. Throws ClosedError. */
  async connectDisplay(): Promise<net.Socket> {
    if (this.#vncFd === null) throw new ClosedError('qemu has no VNC server');
    const socket = net.connect(pathOfFd(this.#vncFd));
    socket.on('error', () => undefined); // whoever uses it sees its end
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('close', () => reject(new ClosedError('qemu: its VNC server is gone')));
    });
    return socket;
  }

  /** Ends when the process is gone. Idempotent. */
  async retire(): Promise<void> {
    this.#isRetired = true;
    await this.child.kill();
    for (const port of this.#vhost) port.close();
    if (this.#vncFd !== null) closeSync(this.#vncFd);
    this.#vncFd = null;
  }
}

/** A socket for each virtio NIC. Throws ColoError; nothing is left open then. */
async function openVhostPorts({ spec, memory, ramIdentity }: Surroundings): Promise<VhostPort[]> {
  const ports: VhostPort[] = [];
  try {
    for (const { id, isVirtio } of spec.nics) {
      if (isVirtio === true) ports.push(await VhostPort.open({ name: id, memory, ram: ramIdentity }));
    }
    return ports;
  } catch (error) {
    for (const port of ports) port.close();
    throw error;
  }
}
