/**
 * A QEMU process's end of a guest's NIC: the socket at which it connects (inherited as `fd`, once), its session, the rings
 * with their eventfds, and frames from and to them. Everything happens on the event loop, ring by ring, in turns of
 * bounded length, so that neither a guest nor a QEMU holds up the others.
 *
 * While it rests (the guest stands still, or its driver is not there yet) frames for the guest wait, within bounds. A
 * QEMU that breaks the protocol loses its connection, and with it the NIC; one that is killed takes its port along.
 */
import { closeSync, fstatSync } from 'node:fs';
import { ProtocolError, messageOf } from '../../../base/errors.ts';
import { loggerFor } from '../../../base/logger.ts';
import { MAX_FRAME_BYTES } from '../../../net/framing.ts';
import { makeWhole, withEmptyHeader } from '../../../net/offload.ts';
import { hideSocket } from '../hidden-socket.ts';
import type { GuestMemory } from './guest-memory.ts';
import { HEADER_BYTES, MAX_PAYLOAD_BYTES, parseHeader, parseMessage } from './messages.ts';
import type { Header } from './messages.ts';
import { ReceiveRing, TransmitRing } from './net-rings.ts';
import { RECEIVE, TRANSMIT, VhostSession } from './session.ts';
import type { RunningRing } from './session.ts';
import {
  DescriptorReceiver,
  WOULD_BLOCK,
  acceptUnix,
  listenUnix,
  makeNonBlocking,
  sendWhole,
  signalEvent,
  takeEvents,
  watchReadable,
} from './unix-calls.ts';
import type { Watch } from './unix-calls.ts';

const log = loggerFor('engine-qemu');
/** Frames of a guest that are taken in one turn of the event loop. */
const FRAMES_A_TURN = 64;
/** Frames for a guest that has no buffers, or stands still. */
export const MAX_WAITING_FRAMES = 1024;
export const MAX_WAITING_BYTES = 4 * 1024 * 1024;
/** Of a frame, in and out. Shared: nothing of it lasts beyond a call. */
const frameBuffer = Buffer.allocUnsafeSlow(MAX_FRAME_BYTES);

export interface PortOptions {
  /** For messages. */
  readonly name: string;
  readonly memory: GuestMemory;
  /** The inode and device of the RAM file: nothing else is taken for memory. */
  readonly ram: { readonly ino: number; readonly dev: number };
}

interface ServedRing {
  readonly running: RunningRing;
  readonly watch: Watch | null;
}

export class VhostPort {
  /** What QEMU inherits and connects to; -1 when it has been handed over. */
  fd = -1;
  /** A frame with its virtio-net header; the view is valid during the call only. */
  onFrame: ((frame: Uint8Array) => void) | null = null;
  /** Frames that found neither buffers nor room to wait, or fit no buffer. */
  lostFrames = 0;
  /** What the guest sent that was no frame, and rings that made no sense. */
  readonly counts = { malformed: 0, brokenRings: 0 };
  readonly #options: PortOptions;
  readonly #session: VhostSession;
  #listener = -1;
  #connection = -1;
  #watch: Watch | null = null;
  readonly #receiver = new DescriptorReceiver();
  readonly #incoming = Buffer.alloc(HEADER_BYTES + MAX_PAYLOAD_BYTES);
  #filled = 0;
  #header: Header | null = null;
  #fds: number[] = [];
  readonly #served: (ServedRing | null)[] = [null, null];
  #transmit: TransmitRing | null = null;
  #receive: ReceiveRing | null = null;
  #isTurnDue = false;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #isClosed = false;

  private constructor(options: PortOptions) {
    this.#options = options;
    this.#session = new VhostSession(options.memory, {
      isRam: (fd) => {
        const { ino, dev } = fstatSync(fd);
        return ino === options.ram.ino && dev === options.ram.dev;
      },
      close: (fd) => closeSync(fd),
      changed: (ring, running) => this.#changed(ring, running),
      settle: (ring) => this.#settle(ring),
    });
  }

  /** Throws ColoError. */
  static async open(options: PortOptions): Promise<VhostPort> {
    const port = new VhostPort(options);
    try {
      port.fd = await hideSocket(async (path) => {
        port.#listener = listenUnix(path);
        port.#watch = watchReadable(port.#listener, () => port.#accept());
        return Promise.resolve();
      });
      return port;
    } catch (error) {
      port.close();
      throw error;
    }
  }

  /** A frame for the guest, with its header. Copied before this returns. */
  send(frame: Uint8Array): void {
    if (this.#isClosed) {
      this.lostFrames++;
      return;
    }
    if (this.#waiting.length === 0 && this.#deliver(frame)) return;
    if (this.#waiting.length >= MAX_WAITING_FRAMES || this.#waitingBytes + frame.length > MAX_WAITING_BYTES) {
      this.lostFrames++;
      return;
    }
    this.#waiting.push(Uint8Array.from(frame));
    this.#waitingBytes += frame.length;
  }

  /** QEMU has inherited the socket. */
  handedOver(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }

  /** Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.onFrame = null;
    this.handedOver();
    this.#session.close();
    this.#watch?.close();
    this.#watch = null;
    for (const fd of [this.#listener, this.#connection, ...this.#fds]) if (fd >= 0) closeSync(fd);
    this.#listener = this.#connection = -1;
    this.#fds = [];
    this.#waiting = [];
  }

  /** The first one is QEMU: the socket has no name by the time that it runs. */
  #accept(): void {
    if (this.#listener < 0) return;
    try {
      const fd = acceptUnix(this.#listener);
      if (fd === WOULD_BLOCK) return;
      this.#watch?.close();
      closeSync(this.#listener);
      this.#listener = -1;
      this.#connection = fd;
      this.#watch = watchReadable(fd, () => this.#read());
    } catch (error) {
      this.#fail(error);
    }
  }

  #read(): void {
    try {
      while (this.#connection >= 0 && this.#readPart());
    } catch (error) {
      this.#fail(error);
    }
  }

  /** False: there is nothing to read for now, or any more. */
  #readPart(): boolean {
    const wanted = HEADER_BYTES + (this.#header?.payloadBytes ?? 0);
    if (this.#filled < wanted) {
      const count = this.#receiver.receive(this.#connection, this.#incoming, this.#filled, wanted, this.#fds);
      if (count === WOULD_BLOCK) return false;
      if (count === 0) {
        this.close();
        return false;
      }
      this.#filled += count;
      if (this.#filled < wanted) return true;
    }
    if (!this.#header) {
      this.#header = parseHeader(this.#incoming);
      if (this.#header.payloadBytes > 0) return true;
    }
    const header = this.#header;
    this.#header = null;
    this.#filled = 0;
    const fds = this.#fds;
    const payload = this.#incoming.subarray(HEADER_BYTES, HEADER_BYTES + header.payloadBytes);
    const message = parseMessage(header, payload, fds.length);
    this.#fds = [];
    log.trace({ nic: this.#options.name, ...message, fds }, 'vhost-user');
    const answer = this.#session.handle(header, message, fds);
    if (answer) sendWhole(this.#connection, answer);
    return true;
  }

  #fail(error: unknown): void {
    if (this.#isClosed) return;
    log.error(`NIC ${this.#options.name}: its connection is closed: ${messageOf(error)}`);
    this.close();
  }

  #changed(index: number, running: RunningRing | null): void {
    this.#served[index]?.watch?.close();
    this.#served[index] = null;
    if (index === TRANSMIT) this.#transmit = null;
    else this.#receive = null;
    if (!running) return;
    const { ring, features, kickFd } = running;
    if (kickFd >= 0) makeNonBlocking(kickFd);
    const watch = kickFd < 0 ? null : watchReadable(kickFd, () => this.#kicked(index, kickFd));
    this.#served[index] = { running, watch };
    if (index === TRANSMIT) this.#transmit = new TransmitRing(ring, features, this.counts);
    else this.#receive = new ReceiveRing(ring, features);
    // What the driver has put there while nobody watched.
    this.#turnSoon();
  }

  #kicked(index: number, kickFd: number): void {
    takeEvents(kickFd);
    if (index === TRANSMIT) this.#drain(FRAMES_A_TURN);
    else {
      this.#receive?.hasRoom();
      this.#deliverWaiting();
    }
  }

  #turnSoon(): void {
    if (this.#isTurnDue) return;
    this.#isTurnDue = true;
    setImmediate(() => {
      this.#isTurnDue = false;
      if (this.#isClosed) return;
      this.#drain(FRAMES_A_TURN);
      this.#deliverWaiting();
    });
  }

  #drain(budget: number): void {
    const transmit = this.#transmit;
    if (!transmit) return;
    this.#guarded(TRANSMIT, () => {
      const mayBeMore = transmit.drain(budget, frameBuffer, (frame) => this.onFrame?.(frame));
      this.#interrupt(TRANSMIT);
      if (mayBeMore) this.#turnSoon();
    });
  }

  #settle(index: number): void {
    // A guest that stands still adds nothing, so this ends with the ring.
    if (index === TRANSMIT) this.#drain(MAX_WAITING_FRAMES);
    else this.#deliverWaiting();
  }

  #deliverWaiting(): void {
    let count = 0;
    while (count < this.#waiting.length && this.#deliver(this.#waiting[count]!)) {
      this.#waitingBytes -= this.#waiting[count]!.length;
      count++;
    }
    if (count > 0) this.#waiting.splice(0, count);
  }

  /** False: not now. */
  #deliver(frame: Uint8Array): boolean {
    const receive = this.#receive;
    if (!receive) return false;
    if (receive.accepts(frame)) return this.#put(receive, frame);
    const isWhole = makeWhole(Uint8Array.from(frame), (whole) => {
      if (!this.#put(receive, withEmptyHeader(whole, frameBuffer))) this.lostFrames++;
    });
    if (!isWhole) this.lostFrames++;
    return true;
  }

  #put(receive: ReceiveRing, frame: Uint8Array): boolean {
    return this.#guarded(RECEIVE, () => {
      const delivery = receive.deliver(frame);
      if (delivery === 'no room') return false;
      if (delivery === 'refused') this.lostFrames++;
      else this.#interrupt(RECEIVE);
      return true;
    });
  }

  #interrupt(index: number): void {
    const running = this.#served[index]?.running;
    const callFd = running?.callFd() ?? -1;
    if (running && callFd >= 0 && running.ring.wantsInterrupt) signalEvent(callFd);
  }

  /** What the guest's driver has done wrong is its own loss. */
  #guarded<T>(index: number, act: () => T): T | false {
    try {
      return act();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      if (this.counts.brokenRings++ === 0) {
        log.warn(`NIC ${this.#options.name}: its driver has set up ${error.message}; the ring rests`);
      }
      this.#session.rest(index);
      return false;
    }
  }
}
