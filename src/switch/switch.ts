/**
 * An Ethernet learning switch: ports in, frames out. It decides where a frame goes and knows nothing of sockets; a
 * port is anything that takes frames (stream-port.ts, nat-port.ts).
 *
 * Group frames and frames to unknown addresses are flooded, a frame never leaves by the port it came from, an address
 * that speaks on another port has moved. There is no spanning tree: two links to one other switch make a loop. Frames
 * for a port that died are held for its successor (hold.ts).
 *
 * Everything happens inside `receive`, synchronously; `flush` ends a burst, so that a port can write once per burst.
 */
import { ETHERNET_HEADER_BYTES, formatMac, isBogusSource, isGroupDestination, macAt } from './ethernet.ts';
import { DEFAULT_HOLD_LIMITS, Hold, type HoldLimits } from './hold.ts';
import { MacTable } from './mac-table.ts';
import { loggerFor } from '../base/logger.ts';

/** What the switch sends to. None of these may throw. */
export interface PortSink {
  /** Who it is, for logs and statistics. */
  readonly name: string;
  /** Takes a frame; the view is valid during the call only. False: it had no room and dropped it. */
  send(frame: Uint8Array): boolean;
  /** The burst is over: what was sent since the last flush goes out. */
  flush(): void;
  /** Asked once, when the port is detached: the frames that its peer may not have read, oldest first; to be kept. */
  unread?(): Uint8Array[];
}

export interface PortCounters {
  /** From the port's peer to the switch. */
  framesIn: number;
  bytesIn: number;
  /** From the switch to the peer. */
  framesOut: number;
  bytesOut: number;
  /** Frames to the peer for which the port had no room. */
  dropped: number;
  /** Frames from the peer that cannot be switched: too short, or with a source no station can have. */
  invalid: number;
}

export interface SwitchStats {
  ports: (PortCounters & { name: string })[];
  macs: number;
  /** Frames that went to every other port. */
  flooded: number;
  /** Addresses that were heard on another port than before. */
  moved: number;
  /** Null when holding is switched off. */
  hold: { kept: number; delivered: number; expired: number; dropped: number } | null;
}

export interface SwitchOptions {
  /** Limits of the hold for dead ports, or false for none. Default: on. */
  readonly hold?: HoldLimits | false;
  /** Seconds after which a silent address is forgotten; the last tenth is not exact. */
  readonly ageSeconds?: number;
  readonly maxPorts?: number;
}

const DEFAULT_AGE_SECONDS = 300;
const DEFAULT_MAX_PORTS = 256;
const SWEEPS_PER_AGE = 10;

const log = loggerFor('switch');

/** One attached port: its owner hands frames in with `receive`. */
export class SwitchPort {
  readonly sink: PortSink;
  readonly counters: PortCounters = {
    framesIn: 0,
    bytesIn: 0,
    framesOut: 0,
    bytesOut: 0,
    dropped: 0,
    invalid: 0,
  };
  readonly #switch: EthernetSwitch;
  /** Has frames to flush. */
  isDirty = false;
  isAttached = true;

  constructor(owner: EthernetSwitch, sink: PortSink) {
    this.#switch = owner;
    this.sink = sink;
  }

  /** A frame has come from this port's peer; the view need be valid during the call only. */
  receive(frame: Uint8Array): void {
    if (this.isAttached) this.#switch.forward(this, frame);
  }

  /** The port is gone. Once; later calls do nothing. */
  detach(): void {
    if (this.isAttached) this.#switch.detach(this);
  }
}

export class EthernetSwitch {
  readonly #ports = new Set<SwitchPort>();
  readonly #dirty: SwitchPort[] = [];
  readonly #macs = new MacTable<SwitchPort>(SWEEPS_PER_AGE);
  readonly #hold: Hold | null;
  readonly #maxPorts: number;
  readonly #sweeper: NodeJS.Timeout;
  #flooded = 0;
  #moved = 0;
  #isClosed = false;

  constructor(options: SwitchOptions = {}) {
    this.#hold = options.hold === false ? null : new Hold(options.hold ?? DEFAULT_HOLD_LIMITS);
    this.#maxPorts = options.maxPorts ?? DEFAULT_MAX_PORTS;
    const sweepMs = ((options.ageSeconds ?? DEFAULT_AGE_SECONDS) * 1000) / SWEEPS_PER_AGE;
    this.#sweeper = setInterval(() => this.#macs.sweep(), sweepMs);
  }

  /** What ports are to remember of the frames sent to them, or null when nothing is held for dead ports. */
  get holdLimits(): HoldLimits | null {
    return this.#hold && this.#hold.limits;
  }

  /** A new port, or null when there are as many as there may be. */
  attach(sink: PortSink): SwitchPort | null {
    if (this.#ports.size >= this.#maxPorts) return null;
    const port = new SwitchPort(this, sink);
    this.#ports.add(port);
    return port;
  }

  /** SwitchPort's way in; use `SwitchPort.detach`. */
  detach(port: SwitchPort): void {
    port.isAttached = false;
    if (!this.#ports.delete(port)) return;
    const macs = this.#macs.forgetPort(port);
    if (!this.#hold || this.#isClosed || macs.length === 0) return;
    this.#hold.portClosed(macs, port.sink.unread?.() ?? []);
    log.info({ port: port.sink.name, macs: macs.map(formatMac) }, 'a port closed: frames to it are held');
  }

  /** SwitchPort's way in; use `SwitchPort.receive`. */
  forward(from: SwitchPort, frame: Uint8Array): void {
    const counters = from.counters;
    counters.framesIn++;
    counters.bytesIn += frame.length;
    if (frame.length < ETHERNET_HEADER_BYTES || isBogusSource(frame)) {
      counters.invalid++;
      return;
    }
    this.#learn(macAt(frame, 6), from);
    if (isGroupDestination(frame)) {
      if (this.#hold?.active) this.#hold.keepGroup(frame);
      this.#flood(from, frame);
      return;
    }
    const to = macAt(frame, 0);
    const port = this.#macs.lookup(to);
    if (port) {
      if (port !== from) this.#send(port, frame);
    } else if (!this.#hold?.active || !this.#hold.keepUnicast(to, frame)) {
      this.#flood(from, frame);
    }
  }

  /** Ends a burst: every port that was sent to writes. */
  flush(): void {
    // By index: a flush may lead to more frames (the NAT answers at once), which are then flushed too.
    for (let i = 0; i < this.#dirty.length; i++) {
      const port = this.#dirty[i]!;
      port.isDirty = false;
      if (port.isAttached) port.sink.flush();
    }
    this.#dirty.length = 0;
  }

  stats(): SwitchStats {
    return {
      ports: [...this.#ports].map((port) => ({ name: port.sink.name, ...port.counters })),
      macs: this.#macs.size,
      flooded: this.#flooded,
      moved: this.#moved,
      hold: this.#hold && { ...this.#hold.counters },
    };
  }

  /** Ends its timers; ports that close from now on are not held for. Ports are closed by their owners. */
  close(): void {
    this.#isClosed = true;
    clearInterval(this.#sweeper);
    this.#hold?.close();
  }

  #learn(mac: number, port: SwitchPort): void {
    const learned = this.#macs.learn(mac, port);
    if (learned === 'known') return;
    if (learned === 'moved') this.#moved++;
    log.debug({ mac: formatMac(mac), port: port.sink.name }, `address ${learned}`);
    if (!this.#hold?.active) return;
    const frames = this.#hold.release(mac);
    for (const frame of frames) this.#send(port, frame);
    if (frames.length > 0) {
      log.info(
        { mac: formatMac(mac), port: port.sink.name, frames: frames.length },
        'held frames were delivered to the port that took the address over',
      );
    }
  }

  #flood(from: SwitchPort, frame: Uint8Array): void {
    this.#flooded++;
    for (const port of this.#ports) if (port !== from) this.#send(port, frame);
  }

  #send(port: SwitchPort, frame: Uint8Array): void {
    if (!port.isDirty) {
      port.isDirty = true;
      this.#dirty.push(port);
    }
    if (port.sink.send(frame)) {
      port.counters.framesOut++;
      port.counters.bytesOut += frame.length;
    } else {
      port.counters.dropped++;
    }
  }
}
