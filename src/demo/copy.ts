/**
 * One copy of the demo's VM: a `colo vm` process, its console and its screen. The serial port takes one client, so a hub
 * holds it for any number of them; both are unix sockets in the demo's folder.
 *
 * A copy is looked at as what it is at the moment: when a secondary takes over, whoever looks at it is sent away and comes
 * back for the primary.
 */
import net from 'node:net';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { ColoError } from '../base/errors.ts';
import { processState } from '../ha/beat/process-state.ts';
import type { ProcessState } from '../ha/beat/messages.ts';
import { ConsoleHub } from '../ha/room/console-hub.ts';
import type { QmpConnection } from '../qmp/lasting-client.ts';
import { GuardedStream } from '../node/copy-streams.ts';
import { VmProcess } from './vm-process.ts';

/** What the demo needs of a copy; tests imitate it. */
export interface DemoCopy {
  readonly name: string;
  readonly host: string;
  readonly pid: number;
  readonly qmp: Pick<QmpConnection, 'execute' | 'waitFor' | 'onEvent'>;
  readonly isAlive: boolean;
  readonly hasConsole: boolean;
  readonly hasScreen: boolean;
  /** Resolves when the process is gone, however it went. */
  readonly exited: Promise<void>;
  readonly processState: () => ProcessState;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
  /** SIGSTOP. */
  freeze(): void;
  /** `isReadOnly`: what is written is discarded. Throws ColoError. */
  console(isReadOnly: boolean): Promise<Duplex>;
  /** The VNC server. A secondary's takes no input by itself (src/vm/vnc). Throws ColoError. */
  screen(): Promise<Duplex>;
  /** Ends what console and screen have handed out. */
  sendViewersAway(): void;
}

export interface CopyPlace {
  readonly name: string;
  readonly host: string;
  readonly folder: string;
  /** What can be looked at. */
  readonly views: 'none' | 'console' | 'console-and-screen';
  /** Whether a signal to the demo's process group, as Ctrl+C is, spares it. */
  readonly isOwnGroup: boolean;
}

export class RunningCopy implements DemoCopy {
  readonly vm: VmProcess;
  readonly #hub: ConsoleHub | null;
  readonly #consolePath: string;
  readonly #screenPath: string | null;
  readonly #viewers = new Set<Duplex>();

  private constructor(vm: VmProcess, hub: ConsoleHub | null, consolePath: string, screenPath: string | null) {
    this.vm = vm;
    this.#hub = hub;
    this.#consolePath = consolePath;
    this.#screenPath = screenPath;
    void vm.exited.then(() => this.#close());
  }

  /** Throws ColoError with the process's last words when it ends at its start. */
  static async start(place: CopyPlace, args: readonly string[]): Promise<RunningCopy> {
    const { name, host, folder, views, isOwnGroup } = place;
    const at = (ending: string): string => path.join(folder, `${name}.${ending}`);
    const screen = views === 'console-and-screen' ? at('vnc') : null;
    // Before the process: what the guest says at its boot is heard.
    const hub =
      views === 'none'
        ? null
        : new ConsoleHub({ serial: at('serial'), console: at('console'), consoleLog: at('log') });
    try {
      const words = [
        ...args,
        ...(hub === null ? [] : ['-serial', `unix:${at('serial')},server=on,wait=off`]),
        ...(screen === null ? [] : ['-vnc', `unix:${screen}`]),
      ];
      const vm = await VmProcess.start(name, host, folder, words, { isOwnGroup });
      return new RunningCopy(vm, hub, at('console'), screen);
    } catch (error) {
      hub?.close();
      throw error;
    }
  }

  get name(): string {
    return this.vm.name;
  }

  get host(): string {
    return this.vm.host;
  }

  get pid(): number {
    return this.vm.pid;
  }

  get qmp(): VmProcess['qmp'] {
    return this.vm.qmp;
  }

  get isAlive(): boolean {
    return this.vm.isAlive;
  }

  get hasConsole(): boolean {
    return this.#hub !== null && this.isAlive;
  }

  get hasScreen(): boolean {
    return this.#screenPath !== null && this.isAlive;
  }

  get exited(): Promise<void> {
    return this.vm.exited;
  }

  readonly processState = (): ProcessState => (this.isAlive ? processState(this.pid) : 'gone');

  kill(): Promise<void> {
    return this.vm.kill();
  }

  freeze(): void {
    if (this.isAlive) process.kill(this.pid, 'SIGSTOP');
  }

  async console(isReadOnly: boolean): Promise<Duplex> {
    if (!this.#hub) throw new ColoError(`${this.name} has no console: the demo runs without its page`);
    await this.#hub.opened;
    const socket = await this.#connect(this.#consolePath, 'console');
    return isReadOnly ? new GuardedStream(socket, () => false) : socket;
  }

  screen(): Promise<Duplex> {
    if (this.#screenPath === null) {
      throw new ColoError(`${this.name} has no screen: only a guest on a stock QEMU has (--engine qemu)`);
    }
    return this.#connect(this.#screenPath, 'screen');
  }

  sendViewersAway(): void {
    for (const viewer of this.#viewers) viewer.destroy();
  }

  async #connect(file: string, what: string): Promise<net.Socket> {
    const socket = net.connect(file);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (cause) => {
        reject(new ColoError(`The ${what} of ${this.name} cannot be reached: ${cause.message}`, { cause }));
      });
    });
    this.#viewers.add(socket);
    socket.on('error', () => undefined); // 'close' follows
    socket.once('close', () => this.#viewers.delete(socket));
    return socket;
  }

  #close(): void {
    this.#hub?.close();
    this.sendViewersAway();
  }
}
