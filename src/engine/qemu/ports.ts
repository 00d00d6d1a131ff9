/**
 * NICs and serial ports: each QEMU process is at the other end of sockets of its own, of which the engine uses those of
 * the process that runs the guest. To the outside a NIC and a serial port stay the same when one process takes over from another;
 * what the one before had not taken is lost, as on a wire.
 */
import type net from 'node:net';
import { loggerFor } from '../../base/logger.ts';
import { BoundedSender } from '../../chardev/bounded-sender.ts';
import { FrameDecoder, MAX_FRAME_BYTES, encodeHeader } from '../../net/framing.ts';
import { VNET_HEADER_BYTES, makeWhole, withEmptyHeader } from '../../net/offload.ts';
import type { EngineNic, EngineSerial } from '../engine.ts';
import type { QemuNicSpec } from './spec.ts';
import { VhostPort } from './vhost/port.ts';

const log = loggerFor('engine-qemu');
/** A frame on its way into a ring, which copies it at once. */
const withHeader = new Uint8Array(VNET_HEADER_BYTES + MAX_FRAME_BYTES);

export class QemuNic implements EngineNic {
  readonly id: string;
  readonly mac: Uint8Array;
  onFrame: ((frame: Uint8Array) => void) | null = null;
  /** Frames that QEMU was too far behind for, or that no Ethernet carries. */
  droppedFrames = 0;
  readonly #header = new Uint8Array(4);
  readonly #decoder: FrameDecoder;
  #socket: net.Socket | null = null;
  #sender: BoundedSender | null = null;
  #vhost: VhostPort | null = null;
  /** What comes and goes here has a virtio-net header. */
  readonly #hasVnetHeader: boolean;

  constructor({ id, mac, hasVnetHeader = false }: QemuNicSpec) {
    this.id = id;
    this.mac = mac;
    this.#hasVnetHeader = hasVnetHeader;
    this.#decoder = new FrameDecoder({
      onFrame: (bytes, from, to) => this.onFrame?.(bytes.subarray(from, to)),
      onError: (error) => log.error(`NIC ${id}: ${error.message}`),
    });
  }

  send(frame: Uint8Array): void {
    if (frame.length === 0 || frame.length > MAX_FRAME_BYTES) {
      this.droppedFrames++;
      return;
    }
    if (this.#vhost) {
      this.#vhost.send(this.#hasVnetHeader ? frame : withEmptyHeader(frame, withHeader));
      return;
    }
    const header = encodeHeader(this.#header, frame.length, null);
    if (!this.#sender?.send(header, frame)) this.droppedFrames++;
  }

  /** Hands over what waits for the end of the tick. */
  flush(): void {
    this.#sender?.flush();
  }

  /** From now on the guest's NIC is at the other end of `port`; null: nowhere. */
  attach(port: net.Socket | VhostPort | null): void {
    this.#vhost?.close();
    this.#vhost = port instanceof VhostPort ? port : null;
    if (this.#vhost) this.#vhost.onFrame = (packet) => this.#fromRing(packet);
    const socket = port instanceof VhostPort ? null : port;
    this.#socket?.removeAllListeners('data');
    this.#socket?.destroy();
    this.#socket = socket;
    this.#sender = socket ? new BoundedSender(socket) : null;
    this.#decoder.reset();
    socket?.on('data', (chunk: Buffer) => this.#decoder.push(chunk)).resume();
  }

  #fromRing(packet: Uint8Array): void {
    if (this.#hasVnetHeader) this.onFrame?.(packet);
    else if (!makeWhole(packet, (frame) => this.onFrame?.(frame))) this.droppedFrames++;
  }
}

export class QemuSerial implements EngineSerial {
  readonly chardev?: string;
  onData: ((bytes: Uint8Array) => void) | null = null;
  onDrain: (() => void) | null = null;
  #socket: net.Socket | null = null;

  /** `chardev`: what it is called on the command line; none for a serial port. */
  constructor(chardev?: string) {
    if (chardev !== undefined) this.chardev = chardev;
  }

  write(bytes: Uint8Array): boolean {
    const socket = this.#socket;
    // What is sent to nobody, or to one that does not read beyond all bounds, is lost, as on a wire.
    if (!socket || socket.writableLength + bytes.length > MAX_UNREAD_BYTES) return true;
    socket.write(Uint8Array.from(bytes));
    return socket.writableLength < UNREAD_PAUSE_BYTES;
  }

  attach(port: net.Socket | VhostPort | null): void {
    const socket = port instanceof VhostPort ? null : port;
    this.#socket?.removeAllListeners('data').removeAllListeners('drain');
    this.#socket?.destroy();
    this.#socket = socket;
    socket?.on('drain', () => this.onDrain?.());
    socket?.on('data', (chunk: Buffer) => this.onData?.(chunk)).resume();
    if (socket) this.onDrain?.();
  }
}

/** Above it the chardev is not read from any more. */
const UNREAD_PAUSE_BYTES = 64 * 1024;
const MAX_UNREAD_BYTES = 1024 * 1024;
