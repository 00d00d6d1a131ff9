/**
 * Frames as a hostile guest may send them: of every kind the parser knows, on few flows so that they meet, with sequence
 * numbers near each other and near the wrap, then with headers changed, cut off and padded. By seed.
 */
import { PROTOCOL, putU16 } from '../../../src/net/packet.ts';
import { arp, bytesOf, ethernet, icmp, ipv4, ipv6, tcp, udp, vlan } from './frames.ts';
import type { Dice } from '../../helpers/dice.ts';

/** What a run needs to be worth its time: COLO_FUZZ=N makes it N times as long. */
export const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

const FLAGS = ['', '', '', '', 'P', 'F', 'S', 'R', 'SF', 'U', 'SR'];
/** Bytes of both guests' streams: what stands at a sequence number is the same for both, nearly always. */
const STREAM = Buffer.from(Array.from({ length: 4096 }, (_, at) => (at * 7 + (at >>> 8)) & 0xff));
const BASES = [0, 100, 0xffff_ff00, 0x7fff_ffff];
const EXTENSIONS = [0, 43, 44, 60, 135, 139, 51, 59];

function tcpFrame(dice: Dice): Uint8Array {
  const at = dice.roll(600);
  const length = dice.once(3) ? 0 : dice.roll(dice.once(8) ? 1400 : 20);
  const payload = Buffer.from(STREAM.subarray(at, at + length));
  if (dice.once(12) && length > 0) payload[dice.roll(length)]! ^= 1;
  return tcp({
    sourcePort: 80 + dice.roll(3),
    seq: (dice.pick(BASES) + at) >>> 0,
    flags: dice.pick(FLAGS),
    id: dice.roll(65_536),
    payload,
    ...(dice.once(6) ? {} : { ack: (1000 + dice.roll(40)) >>> 0 }),
    ...(dice.once(5) ? { options: hostileOptions(dice) } : {}),
    ...(dice.once(10) ? { padTo: 60 } : {}),
  });
}

/** TCP options that loop, lie about their length or are many. */
function hostileOptions(dice: Dice): Uint8Array {
  const options = new Uint8Array(4 * (1 + dice.roll(10)));
  for (let at = 0; at < options.length;) {
    const kind = dice.pick([0, 1, 1, 2, 3, 5, 5, 8, 254]);
    options[at++] = kind;
    if (kind > 1 && at < options.length) {
      const length = dice.pick([0, 1, 2, 3, 10, 18, 34, 255]);
      options[at] = length;
      at += Math.max(1, dice.once(3) ? 1 : length - 1);
    }
  }
  return options;
}

function datagram(dice: Dice): Uint8Array {
  const payload = `datagram ${dice.roll(6)}${'.'.repeat(dice.roll(3))}`;
  const fragment = dice.once(4) ? dice.pick([0x2000, 0x2001, 1, 2, 0x1fff, 0x3fff]) : 0;
  return udp(payload, { sourcePort: 50 + dice.roll(3), fragment, id: dice.roll(65_536) });
}

/** IPv6 with a chain of extension headers that may be long, cut off, or lead nowhere. */
function sixFrame(dice: Dice): Uint8Array {
  const inner = dice.pick([PROTOCOL.TCP, PROTOCOL.UDP, PROTOCOL.ICMPV6, 59]);
  const body = inner === PROTOCOL.UDP ? datagram(dice) : tcpFrame(dice);
  const parts: Uint8Array[] = [];
  const kinds = Array.from({ length: dice.once(10) ? dice.roll(200) : dice.roll(3) }, () =>
    dice.pick(EXTENSIONS),
  );
  for (const [at] of kinds.entries()) {
    const header = new Uint8Array(8);
    header[0] = kinds[at + 1] ?? inner;
    header[1] = dice.once(8) ? dice.roll(256) : 0;
    if (kinds[at] === 44) putU16(header, 2, dice.pick([0, 1, 8, 0xfff8, 0xfff9]));
    parts.push(header);
  }
  parts.push(body.subarray(34));
  return ipv6(kinds[0] ?? inner, Buffer.concat(parts));
}

const MAKERS: readonly ((dice: Dice) => Uint8Array)[] = [
  tcpFrame,
  tcpFrame,
  tcpFrame,
  datagram,
  datagram,
  sixFrame,
  (dice) => icmp(`ping ${dice.roll(3)}`),
  (dice) =>
    ipv4(dice.roll(256), bytesOf(`other ${dice.roll(3)}`), {
      fragment: dice.once(4) ? dice.roll(65_536) : 0,
    }),
  (dice) => ipv4(PROTOCOL.TCP, dice.bytes(dice.roll(40)), { fragment: dice.pick([0, 0x2000, 3]) }),
  () => arp(),
  (dice) =>
    ethernet(
      dice.pick([0x88cc, 0x8847, 0x0800, 0x86dd, 0x8100, dice.roll(65_536)]),
      dice.bytes(dice.roll(64)),
    ),
  (dice) => dice.bytes(dice.roll(80)),
];

/** Never empty. */
export function hostileFrame(dice: Dice): Uint8Array {
  let frame = Uint8Array.from(dice.pick(MAKERS)(dice));
  if (dice.once(6)) frame = Uint8Array.from(vlan(dice.roll(4), frame, dice.pick([0x8100, 0x88a8])));
  if (dice.once(30)) frame = Uint8Array.from(vlan(dice.roll(4), frame));
  if (dice.once(5)) {
    // Header bytes are worth most.
    for (let n = 1 + dice.roll(3); n > 0; n--) frame[dice.roll(Math.min(frame.length, 74))] = dice.roll(256);
  }
  if (dice.once(10)) frame = frame.subarray(0, 1 + dice.roll(frame.length));
  if (dice.once(20)) frame = Uint8Array.from(Buffer.concat([frame, dice.bytes(dice.roll(40))]));
  return frame.length > 0 ? frame : Uint8Array.of(1);
}
