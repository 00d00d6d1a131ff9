/**
 * A guest whose program is in every QEMU: the network boot of iPXE, on a virtio NIC. It asks for an address (DHCP) and,
 * given one, for its server's hardware address (ARP): frames out, frames in, each step the consequence of the one before.
 */
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import type { QemuSpec } from '../../../src/engine/qemu/index.ts';
import { onesSum } from '../../../src/net/checksum.ts';
import { ETHERTYPE, PROTOCOL, PacketView, putU16, putU32, u16 } from '../../../src/net/packet.ts';
import { MAC } from '../../unit/engine/mini-machine.ts';
import { miniQemu } from './qemu-machines.ts';
import type { QemuMini } from './qemu-machines.ts';

const MIB = 1024 * 1024;
const SERVER_MAC = [0x52, 0x55, 10, 0, 2, 2];
const SERVER = 0x0a000202;
const CLIENT = 0x0a00020f;
const DHCP_AT = 14 + 20 + 8;
const OPTIONS_AT = DHCP_AT + 240;
const STEP_MS = 60_000;

export const DISCOVER = 1;
export const REQUEST = 3;

export function ipxeSpec(changes: Partial<QemuSpec> = {}): Partial<QemuSpec> {
  return {
    ramBytes: 32 * MIB,
    args: ['-vga', 'none', '-boot', 'n', '-device', 'virtio-net-pci,netdev=hn0,id=nic0,bootindex=1'],
    nics: [{ id: 'nic0', netdev: 'hn0', mac: MAC, isVirtio: true }],
    ...changes,
  };
}

/** What a frame is: 'dhcp 1', 'dhcp 3', 'arp', or another. */
export function kindOf(frame: Uint8Array): string {
  const view = new PacketView();
  view.parse(frame);
  if (view.etherType === ETHERTYPE.ARP) return 'arp';
  if (view.protocol !== PROTOCOL.UDP || view.destinationPort !== 67) return 'other';
  for (let at = OPTIONS_AT; at < frame.length && frame[at] !== 255; at += 2 + frame[at + 1]!) {
    if (frame[at] === 53) return `dhcp ${frame[at + 2]}`;
  }
  return 'other';
}

/** The server's reply to a DISCOVER (an offer) or to a REQUEST (its acceptance), with the name of a file to load. */
export function replyTo(asked: Uint8Array): Uint8Array {
  const type = kindOf(asked) === `dhcp ${DISCOVER}` ? 2 : 5;
  const address = (value: number): number[] => [
    value >>> 24,
    (value >>> 16) & 255,
    (value >>> 8) & 255,
    value & 255,
  ];
  const options = [
    [53, 1, type],
    [54, 4, ...address(SERVER)],
    [51, 4, 0, 0, 14, 16],
    [1, 4, 255, 255, 255, 0],
    [67, 4, ...Buffer.from('boot')],
    [255],
  ].flat();
  const frame = new Uint8Array(OPTIONS_AT + options.length);
  frame.set([...asked.subarray(6, 12), ...SERVER_MAC, 8, 0]);
  const ipBytes = frame.length - 14;
  frame.set([0x45, 0, ipBytes >>> 8, ipBytes & 255, 0, 0, 0, 0, 64, PROTOCOL.UDP], 14);
  putU32(frame, 26, SERVER);
  putU32(frame, 30, CLIENT);
  putU16(frame, 24, ~onesSum(frame, 14, 34) & 0xffff);
  putU16(frame, 34, 67);
  putU16(frame, 36, 68);
  putU16(frame, 38, ipBytes - 20);
  frame.set([2, 1, 6, 0, ...asked.subarray(DHCP_AT + 4, DHCP_AT + 8)], DHCP_AT);
  putU16(frame, DHCP_AT + 10, u16(asked, DHCP_AT + 10));
  putU32(frame, DHCP_AT + 16, CLIENT);
  putU32(frame, DHCP_AT + 20, SERVER);
  frame.set(asked.subarray(DHCP_AT + 28, DHCP_AT + 44), DHCP_AT + 28);
  putU32(frame, DHCP_AT + 236, 0x63825363);
  frame.set(options, OPTIONS_AT);
  return frame;
}

/** Notes what a guest's NIC says. */
export class Listener {
  readonly frames: Uint8Array[] = [];
  #waiting: { kind: string; found: Deferred<Uint8Array> } | null = null;

  constructor({ engine }: QemuMini) {
    engine.nics[0]!.onFrame = (frame) => {
      this.frames.push(Uint8Array.from(frame));
      if (this.#waiting?.kind === kindOf(frame)) this.#waiting.found.resolve(Uint8Array.from(frame));
    };
  }

  /** The next one of a kind. */
  async next(kind: string): Promise<Uint8Array> {
    const found = new Deferred<Uint8Array>();
    this.#waiting = { kind, found };
    return await withDeadline(found.promise, STEP_MS, `a frame of the kind ${kind}`);
  }
}

/** Stands still; its firmware has not begun. */
export function ipxe(changes: Partial<QemuSpec> = {}): Promise<QemuMini> {
  return miniQemu(ipxeSpec(changes));
}
