/**
 * An imitated DashboardSource: two hosts, a protected VM and two more, with counters that move, consoles that echo, and
 * whatever a test lets happen to it. Everything is told at once; nothing moves by itself unless `live` is called.
 */
import { Duplex } from 'node:stream';
import { ColoError, CommandNotFoundError } from '../../src/base/errors.ts';
import type { EventQuery } from '../../src/api/service.ts';
import type { CheckpointCause, CheckpointRecord } from '../../src/checkpoint/guest.ts';
import type { Action, Copy, VmPicture } from '../../src/dashboard/protocol.ts';
import type { AskPrimary, DashboardSource } from '../../src/dashboard/source.ts';
import { BusyError, NoSuchVmError } from '../../src/ha/errors.ts';
import type { HaEvent, HostView, VmState } from '../../src/ha/views.ts';

export const CAUSES: readonly CheckpointCause[] = ['timer', 'mismatch', 'parameter', 'request'];

export class FalseSource implements DashboardSource {
  readonly kind: 'demo' | 'node';
  readonly software = '0.1.0';
  readonly host: string | null;
  /** How often each thing was asked for. */
  readonly asked = { hosts: 0, vms: 0, primary: 0, qmp: 0, events: 0, act: 0, console: 0, screen: 0 };
  /** What was done to it, oldest first. */
  readonly acted: { readonly vm: string; readonly action: Action; readonly host?: string }[] = [];
  /** Commands that its monitor does not know, as an older one. */
  readonly unknown = new Set<string>();
  /** Consoles and screens that are open. */
  readonly open = new Set<Duplex>();
  /** What was written to any console or screen of that copy. */
  readonly typed: Record<Copy, string> = { primary: '', secondary: '' };
  /** Awaited by every action, by every question. */
  actGate: Promise<void> = Promise.resolve();
  #questionGate: Promise<void> = Promise.resolve();
  #failure: Error | null = null;
  #state: VmState = 'protected';
  #reason = 'both copies run';
  #sinceMs = Date.now();
  #epoch = 7;
  #primary: string | null = 'alpha';
  #secondary: string | null = 'beta';
  #resync: { doneBytes: number; totalBytes: number } | null = null;
  #lastFailover: VmPicture['lastFailover'] = undefined;
  #checkpoints: CheckpointRecord[] = [];
  #counts = fresh();
  #silentMs = 40;
  readonly #events: HaEvent[] = [];
  readonly #waiting = new Set<() => void>();
  #timer: NodeJS.Timeout | null = null;

  constructor(kind: 'demo' | 'node' = 'demo') {
    this.kind = kind;
    this.host = kind === 'node' ? 'alpha' : null;
    for (let n = 0; n < 40; n++) this.checkpoint(CAUSES[n % 7 === 0 ? 1 : 0], Date.now() - (40 - n) * 2_000);
    this.event({
      type: 'state',
      from: 'protecting',
      to: 'protected',
      reason: 'the first checkpoint is there',
    });
  }

  // -- what happens

  /** Counters move as a guest at work would have them, with a checkpoint every two seconds or so, until `stop`. */
  live(): void {
    let tick = 0;
    this.#timer ??= setInterval(() => {
      this.traffic(3 + (tick % 5));
      if (++tick % 20 === 0) this.checkpoint(tick % 60 === 0 ? 'mismatch' : 'timer');
    }, 100);
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    for (const port of this.open) port.destroy();
  }

  checkpoint(cause: CheckpointCause = 'timer', atMs = Date.now()): void {
    const sequence = this.#checkpoints.length + 1;
    const wave = Math.sin(sequence / 3);
    const pages = Math.round(900 + 600 * wave);
    this.#checkpoints.push({
      ...{ sequence, cause, atMs, pages, bytes: pages * 4100 + 5_000 },
      ...{ pauseMs: 11 + 4 * wave, heldMs: 42 + 9 * wave, totalMs: 60 + 12 * wave },
    });
    this.#counts.channel += pages * 4100 + 5_000;
  }

  /** Frames of a kilobyte both ways, and as many disk writes. */
  traffic(frames: number): void {
    this.#counts.frames += frames;
    this.#counts.writes += frames;
  }

  event(event: Partial<HaEvent>): HaEvent {
    const sequence = this.#events.length + 1;
    const full: HaEvent = {
      ...{ version: 1, sequence, time: new Date().toISOString(), host: 'alpha', vm: 'web' },
      ...{ type: 'note', reason: 'something has happened', ...event },
    };
    this.#events.push(full);
    for (const wake of [...this.#waiting]) wake();
    return full;
  }

  /** The secondary goes on alone. */
  killPrimary(): void {
    const [from, to] = [this.#primary ?? 'nobody', this.#secondary ?? 'nobody'];
    this.#primary = this.#secondary;
    this.#secondary = null;
    this.#epoch++;
    this.#checkpoints = [];
    this.#counts = fresh();
    const reason = 'the primary’s process has died';
    this.#lastFailover = { atMs: Date.now(), from, to, reason };
    this.#become('unprotected', `${reason}: ${to} goes on alone`);
    this.#dropConsoles();
  }

  killSecondary(): void {
    this.#secondary = null;
    this.#epoch++;
    this.#become('unprotected', 'the secondary’s process has died');
  }

  /** A new secondary gets its disks; `share` from 0 to 1 of it is done. */
  resync(share: number): void {
    this.#secondary ??= this.#primary === 'alpha' ? 'beta' : 'alpha';
    this.#resync = { doneBytes: Math.round(share * 2 ** 30), totalBytes: 2 ** 30 };
    if (this.#state !== 'syncing') this.#become('syncing', 'the disks are being copied');
  }

  protect(): void {
    this.#secondary ??= this.#primary === 'alpha' ? 'beta' : 'alpha';
    this.#resync = null;
    this.#become('protected', 'both copies run');
  }

  /** The other side is not heard. */
  freeze(): void {
    this.#silentMs = 2_500;
    this.#become('suspect', 'the secondary is silent');
  }

  /** Questions wait until the returned function is called. */
  hang(): () => void {
    let end = (): void => undefined;
    this.#questionGate = new Promise((resolve) => (end = resolve));
    return end;
  }

  /** Null: it works again. */
  fail(error: Error | null): void {
    this.#failure = error;
  }

  // -- what is asked

  async hosts(): Promise<readonly HostView[]> {
    this.asked.hosts++;
    await this.#admit();
    return ['alpha', 'beta'].map((name, at) => ({
      ...{ version: 1, name, api: `192.0.2.${at + 1}:7420`, heartbeat: `192.0.2.${at + 1}:7421` },
      ...{
        software: '0.1.0',
        isAlive: true,
        isInMaintenance: false,
        memoryMiB: 65_536,
        freeMemoryMiB: 61_952,
      },
      vms: { primary: this.#primary === name ? 1 : 0, secondary: this.#secondary === name ? 1 : 0 },
      labels: { rack: `r${at + 1}` },
    }));
  }

  async vms(): Promise<readonly VmPicture[]> {
    this.asked.vms++;
    await this.#admit();
    return [this.#web(), lone('db', 'unprotected', 'beta'), lone('mail', 'down', null)];
  }

  async *events({ after = 0, vm, follow, signal }: EventQuery): AsyncGenerator<HaEvent> {
    this.asked.events++;
    await this.#admit();
    for (let at = after; ;) {
      const event = this.#events[at];
      if (event) {
        at++;
        if (vm === undefined || event.vm === vm) yield event;
      } else if (!follow || signal?.aborted) return;
      else {
        await new Promise<void>((resolve) => {
          const wake = (): void => {
            this.#waiting.delete(wake);
            resolve();
          };
          this.#waiting.add(wake);
          signal?.addEventListener('abort', wake, { once: true });
        });
      }
    }
  }

  async primary(vm: string): Promise<AskPrimary> {
    this.asked.primary++;
    await this.#admit();
    if (vm !== 'web') throw new NoSuchVmError(vm);
    if (this.#primary === null) throw new BusyError(`'${vm}' does not run`);
    return (command, args) => this.#qmp(command, args ?? {});
  }

  async act(vm: string, action: Action, options: { host?: string; signal: AbortSignal }): Promise<string> {
    this.asked.act++;
    const { host, signal } = options;
    this.acted.push({ vm, action, ...(host !== undefined && { host }) });
    await Promise.race([
      this.actGate,
      new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true })),
    ]);
    if (this.#failure) throw this.#failure;
    if (vm !== 'web') throw new NoSuchVmError(vm);
    if (action === 'checkpoint') this.checkpoint('request');
    else if (action === 'kill-primary' || action === 'failover') this.killPrimary();
    else if (action === 'kill-secondary') this.killSecondary();
    else if (action === 'freeze-primary' || action === 'cut-link') this.freeze();
    else throw new ColoError(`${action}: not in this play`);
    return `${action}: done`;
  }

  async console(vm: string, copy: Copy): Promise<Duplex> {
    this.asked.console++;
    await this.#admit();
    if (vm !== 'web') throw new NoSuchVmError(vm);
    return this.#echo(copy, Buffer.from(`${copy} of ${vm}\r\nweb login: `));
  }

  async screen(vm: string, copy: Copy): Promise<Duplex> {
    this.asked.screen++;
    await this.#admit();
    if (vm !== 'web') throw new ColoError(`'${vm}' has no screen: start it with engine qemu and vnc`);
    return this.#echo(copy, Buffer.from('RFB 003.008\n'));
  }

  async #admit(): Promise<void> {
    await this.#questionGate;
    if (this.#failure) throw this.#failure;
  }

  #become(state: VmState, reason: string): void {
    const from = this.#state;
    this.#state = state;
    this.#reason = reason;
    this.#sinceMs = Date.now();
    this.event({ type: 'state', from, to: state, reason });
  }

  #web(): VmPicture {
    const byCause: Record<string, number> = {};
    for (const { cause } of this.#checkpoints) byCause[cause] = (byCause[cause] ?? 0) + 1;
    const last = this.#checkpoints.at(-1);
    const screen = { serial: true, vnc: true };
    const resync = this.#resync && { resync: this.#resync };
    const isPair = this.#secondary !== null && this.#state !== 'syncing';
    return {
      ...{ version: 1, name: 'web', state: this.#state, reason: this.#reason, sinceMs: this.#sinceMs },
      ...{ epoch: this.#epoch, primary: this.#primary, secondary: this.#secondary },
      copies: [
        ...(this.#primary === null
          ? []
          : [{ host: this.#primary, role: isPair ? ('primary' as const) : ('alone' as const), pid: 4711 }]),
        ...(this.#secondary === null
          ? []
          : [
              {
                ...{ host: this.#secondary, pid: 4712, ...resync },
                role: isPair ? ('secondary' as const) : ('joining' as const),
              },
            ]),
      ],
      ...{ isWanted: true, isPaused: false, memoryMiB: 256, engine: 'v86' },
      checkpoints: {
        ...{ count: this.#checkpoints.length, perSecond: 0.5, byCause },
        ...{ lastPauseMs: last?.pauseMs ?? null, lastAtMs: last?.atMs ?? null },
      },
      ...(this.#lastFailover && { lastFailover: this.#lastFailover }),
      actions: isPair
        ? [
            ...(['checkpoint', 'failover', 'pause'] as const),
            ...(this.kind === 'demo'
              ? (['kill-primary', 'kill-secondary', 'freeze-primary', 'cut-link'] as const)
              : (['migrate'] as const)),
          ]
        : ['pause'],
      screens: { primary: screen, secondary: isPair ? screen : { serial: false, vnc: false } },
    };
  }

  async #qmp(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    this.asked.qmp++;
    await this.#admit();
    if (this.unknown.has(command))
      throw new CommandNotFoundError(`The command ${command} has not been found`);
    const { frames, writes, channel } = this.#counts;
    const isPair = this.#secondary !== null && this.#state !== 'syncing';
    switch (command) {
      case 'query-colo-status':
        return {
          ...{ mode: isPair ? 'primary' : 'none', 'last-mode': 'none', reason: 'none' },
          ...(isPair && {
            'x-heartbeat': {
              ...{ 'last-heard-ms': this.#silentMs, 'is-silent': this.#silentMs > 400 },
              ...{ 'interval-ms': 100, 'patience-ms': 400 },
            },
          }),
        };
      case 'query-colo-checkpoints': {
        const after = args['after'];
        const skip = typeof after === 'number' ? after : 0;
        if (after !== undefined && this.unknown.has('after'))
          throw new ColoError("Parameter 'after' is unexpected");
        const records = this.#checkpoints.slice(skip).slice(-1024);
        return { count: this.#checkpoints.length, 'by-cause': {}, records };
      }
      case 'query-colo-compare':
        return isPair ? [comparer(frames)] : [];
      case 'query-colo-traffic':
        return {
          filters: isPair ? [mirror(frames)] : [],
          replication: isPair
            ? [{ 'node-name': 'replication0', writes, bytes: writes * 4096, 'in-flight': 1, waiting: 0 }]
            : [],
          ...(isPair && { channel: { 'bytes-sent': channel, 'bytes-received': 1000 } }),
        };
      default:
        throw new CommandNotFoundError(`The command ${command} has not been found`);
    }
  }

  #echo(copy: Copy, greeting: Buffer): Duplex {
    const port: Duplex = new Duplex({
      read: () => undefined,
      write: (bytes: Buffer, _encoding, done) => {
        this.typed[copy] += bytes.toString('latin1');
        port.push(bytes.toString('latin1').replaceAll('\r', '\r\n'));
        done();
      },
      final: (done) => {
        port.push(null);
        done();
      },
    });
    this.open.add(port);
    port.once('close', () => this.open.delete(port));
    port.push(greeting);
    return port;
  }

  #dropConsoles(): void {
    for (const port of [...this.open]) port.push(null);
  }
}

const fresh = (): { frames: number; writes: number; channel: number } => ({
  frames: 0,
  writes: 0,
  channel: 0,
});

function lone(name: string, state: VmState, primary: string | null): VmPicture {
  const none = { serial: false, vnc: false };
  return {
    ...{
      version: 1,
      name,
      state,
      reason: state === 'down' ? 'nobody asks for it' : 'no second host has room',
    },
    ...{ sinceMs: 1_790_000_000_000, epoch: 1, primary, secondary: null, isWanted: primary !== null },
    ...{ isPaused: false, memoryMiB: 512, engine: 'qemu' },
    copies: primary === null ? [] : [{ host: primary, role: 'alone', pid: 815 }],
    actions: primary === null ? [] : ['pause', 'migrate'],
    screens: { primary: { serial: primary !== null, vnc: false }, secondary: none },
  };
}

function mirror(frames: number): unknown {
  return {
    ...{
      id: 'm0',
      'qom-type': 'filter-mirror',
      netdev: 'nic0',
      'frames-out': frames,
      'bytes-out': frames * 1000,
    },
    ...{ 'frames-lost': 0, 'frames-in': 0, 'bytes-in': 0 },
  };
}

function comparer(frames: number): unknown {
  return {
    ...{ id: 'comp0', mode: 'comparing', requests: { total: 3 } },
    frames: {
      ...{ 'primary-in': frames, 'secondary-in': frames, released: frames },
      ...{ 'released-by-checkpoint': 0, forwarded: 0 },
    },
    bytes: { 'primary-in': frames * 1000, 'secondary-in': frames * 1000, released: frames * 1000 },
    held: { 'primary-packets': frames % 4, 'primary-bytes': (frames % 4) * 1256 },
    'held-us': { recent: { count: 20, p50: 380 + (frames % 50), p99: 2_100 + (frames % 200) } },
  };
}
