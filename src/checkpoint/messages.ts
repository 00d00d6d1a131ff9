/**
 * The checkpoint channel's wire format: numbers, headers and their bounds. Pure functions; channel.ts does the I/O and
 * primary.ts / secondary.ts hold the dialogue. All integers are big-endian.
 *
 * Messages 0 to 6 are QEMU's (qapi/migration.json, COLOMessage; migration/colo.c): a u32 code, VMSTATE_SIZE followed
 * by a u64. What follows VMSTATE_SEND is engine-specific in QEMU too; here it is a section of changed pages. Codes
 * from 0x100 are ours: QEMU has no word for stream marks, for rounds of RAM before the first stop, or for a refusal.
 *
 *   hello      magic (8) · u32 length · JSON           once, each way, before any message
 *   section    u64 length · u32 pages · u32 crc32 · bytes
 */
import { z } from 'zod';
import { ProtocolError } from '../base/errors.ts';
import type { HeldFrame, StreamMark } from '../base/participant.ts';

export const COLO_MESSAGE = {
  CHECKPOINT_READY: 0,
  CHECKPOINT_REQUEST: 1,
  CHECKPOINT_REPLY: 2,
  VMSTATE_SEND: 3,
  VMSTATE_SIZE: 4,
  VMSTATE_RECEIVED: 5,
  VMSTATE_LOADED: 6,
  /** A round of RAM while the guest still runs: a section follows. */
  RAM_ROUND: 0x100,
  /** u32 length and JSON: positions of the sender's packet streams at the moment its guest stood still. */
  STREAM_MARKS: 0x101,
  /** u32 length and a sentence: the sender gives up, and why. */
  FAILED: 0x102,
  /** A section of frames (see encodeHeldOutput): what the primary's guest has said and what has not left yet. */
  HELD_OUTPUT: 0x103,
  /** The end of a plain migration: the sender will not let its guest run any more, the receiver may. */
  HANDOVER: 0x104,
  /** u32: the sender's interval in ms. Only between peers whose hellos have the feature, and only between messages. */
  BEAT: 0x105,
} as const;

export type ColoMessage = (typeof COLO_MESSAGE)[keyof typeof COLO_MESSAGE];

const NAMES = new Map<number, string>(
  Object.entries(COLO_MESSAGE).map(([name, code]) => [code, name.toLowerCase().replaceAll('_', '-')]),
);

/** A message's name for logs and errors; unknown codes in hexadecimal. */
export function nameOfMessage(code: number): string {
  return NAMES.get(code) ?? `0x${code.toString(16)}`;
}

/** `COLOFT`, a zero byte, and the version of this format. */
export const HELLO_MAGIC = Uint8Array.from([0x43, 0x4f, 0x4c, 0x4f, 0x46, 0x54, 0x00, 0x01]);

export const BEAT_BYTES = 8;
const DEAF = 0x8000_0000;

/** What a peer may do without: said in the hello, used when both have it. Names that are not known are ignored. */
export const FEATURES = ['beat'] as const;
export type Feature = (typeof FEATURES)[number];

/** Longest JSON in a hello, in marks or in a refusal. */
export const MAX_TEXT_BYTES = 512 * 1024;
const MAX_MARKS = 1024;
/** Longest device state: VGA memory of 64 MiB and the rest. */
export const MAX_DEVICE_BYTES = 96 * 1024 * 1024;
export const SECTION_HEADER_BYTES = 16;
export const SECTION_CRC_AT = 12;
/** Most held output that goes with a checkpoint; what is beyond is left to the guest's retransmission. */
export const MAX_HELD_BYTES = 4 * 1024 * 1024;

const helloSchema = z.object({
  engine: z.string().max(64),
  buildId: z.string().max(256),
  /** What it is a hash of, to say what differs. */
  buildParts: z.array(z.string().max(512)).max(128).optional(),
  ramBytes: z.number().int().positive(),
  /** True: the sender wants to stay in COLO after the first state has been loaded. */
  colo: z.boolean(),
  disks: z.array(z.object({ id: z.string().max(256), lengthBytes: z.number().int().nonnegative() })).max(64),
  nics: z.array(z.object({ id: z.string().max(256) })).max(64),
  features: z.array(z.string().max(64)).max(64).optional(),
});

/** Bodies follow these. */
const MESSAGES_WITH_BODY = new Set<number>([
  COLO_MESSAGE.VMSTATE_SEND,
  COLO_MESSAGE.VMSTATE_SIZE,
  COLO_MESSAGE.RAM_ROUND,
  COLO_MESSAGE.STREAM_MARKS,
  COLO_MESSAGE.FAILED,
  COLO_MESSAGE.HELD_OUTPUT,
]);

/** True: what follows the code belongs to it. */
export function hasBody(code: number): boolean {
  return MESSAGES_WITH_BODY.has(code);
}

/** What both sides must agree on before a byte of state is sent. */
export type Hello = z.infer<typeof helloSchema>;

const marksSchema = z
  .array(z.object({ stream: z.string().max(256), bytes: z.number().int().nonnegative() }))
  .max(MAX_MARKS);

export function encodeHello(hello: Hello): Buffer {
  return Buffer.concat([HELLO_MAGIC, encodeText(JSON.stringify(hello))]);
}

/** FAILED, whole. */
export function encodeFailure(reason: string): Buffer {
  const code = Buffer.alloc(4);
  code.writeUInt32BE(COLO_MESSAGE.FAILED, 0);
  return Buffer.concat([code, encodeText(reason)]);
}

/** `isDeaf`: the sender has not heard its peer for a while. In the highest bit, above any interval. */
export function encodeBeat(intervalMs: number, isDeaf = false): Buffer {
  const out = Buffer.alloc(BEAT_BYTES);
  out.writeUInt32BE(COLO_MESSAGE.BEAT, 0);
  out.writeUInt32BE((intervalMs | (isDeaf ? DEAF : 0)) >>> 0, 4);
  return out;
}

/** Of a beat's second word. */
export function decodeBeat(word: number): { readonly intervalMs: number; readonly isDeaf: boolean } {
  return { intervalMs: (word & ~DEAF) >>> 0, isDeaf: (word & DEAF) !== 0 };
}

/** u32 length and UTF-8, cut to the bound. */
export function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8').subarray(0, MAX_TEXT_BYTES);
  const out = Buffer.allocUnsafe(4 + bytes.byteLength);
  out.writeUInt32BE(bytes.byteLength, 0);
  bytes.copy(out, 4);
  return out;
}

/** Throws ProtocolError on anything but a well-formed hello. */
export function parseHello(text: string): Hello {
  return parseWith(helloSchema, text, 'hello');
}

/** Throws ProtocolError on anything but a well-formed list of marks. */
export function parseMarks(text: string): StreamMark[] {
  return parseWith(marksSchema, text, 'stream marks');
}

function parseWith<T>(schema: z.ZodType<T>, text: string, what: string): T {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new ProtocolError(`checkpoint channel: the peer's ${what} is not JSON`, { cause });
  }
  const parsed = schema.safeParse(raw);
  if (!parsed.success) {
    throw new ProtocolError(`checkpoint channel: the peer's ${what} is malformed`, { cause: parsed.error });
  }
  return parsed.data;
}

/** Why two machines cannot be a pair, as one sentence, or null when they can. */
export function incompatibility(ours: Hello, theirs: Hello): string | null {
  if (ours.engine !== theirs.engine) return `engine '${theirs.engine}' does not match '${ours.engine}'`;
  if (ours.ramBytes !== theirs.ramBytes) {
    return `RAM of ${theirs.ramBytes} bytes does not match ${ours.ramBytes}; give both sides the same -m`;
  }
  if (ours.disks.length !== theirs.disks.length) {
    return `${theirs.disks.length} disk(s) do not match ${ours.disks.length}`;
  }
  for (const [at, disk] of ours.disks.entries()) {
    const other = theirs.disks[at]!;
    if (disk.lengthBytes !== other.lengthBytes) {
      return `disk '${other.id}' of ${other.lengthBytes} bytes does not match '${disk.id}' of ${disk.lengthBytes}`;
    }
  }
  if (ours.nics.length !== theirs.nics.length)
    return `${theirs.nics.length} NIC(s) do not match ${ours.nics.length}`;
  if (ours.buildId !== theirs.buildId) {
    const differing = differingParts(ours.buildParts ?? [], theirs.buildParts ?? []);
    if (differing !== null) return differing;
    return 'the machines are built differently (engine version, firmware or devices); start both with the same options';
  }
  return null;
}

/** The first part that one side has and the other has not, with its counterpart. */
function differingParts(ours: readonly string[], theirs: readonly string[]): string | null {
  const [own] = ours.filter((part) => !theirs.includes(part));
  const [other] = theirs.filter((part) => !ours.includes(part));
  if (own !== undefined && other !== undefined) {
    return `'${other}' does not match '${own}'; start both with the same options`;
  }
  if (own !== undefined) return `only this side has '${own}'; start both with the same options`;
  if (other !== undefined) return `only the other side has '${other}'; start both with the same options`;
  const moved = ours.find((part, at) => theirs[at] !== part);
  return moved === undefined ? null : `'${moved}' is at another place; give the options in the same order`;
}

/** Per frame: u16 length of the netdev's id, the id, u32 length of the frame, the frame. Cut to MAX_HELD_BYTES. */
export function encodeHeldOutput(frames: readonly HeldFrame[]): Buffer {
  const parts: Uint8Array[] = [];
  let total = 0;
  for (const { netdev, frame } of frames) {
    const name = Buffer.from(netdev, 'utf8');
    const head = Buffer.allocUnsafe(6 + name.byteLength);
    head.writeUInt16BE(name.byteLength, 0);
    name.copy(head, 2);
    head.writeUInt32BE(frame.byteLength, 2 + name.byteLength);
    total += head.byteLength + frame.byteLength;
    if (total > MAX_HELD_BYTES) break;
    parts.push(head, frame);
  }
  return Buffer.concat(parts);
}

/** Views on `body`. Throws ProtocolError when the lengths in it do not add up. */
export function parseHeldOutput(body: Uint8Array): HeldFrame[] {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const frames: HeldFrame[] = [];
  let at = 0;
  const take = (length: number): Buffer => {
    if (at + length > bytes.byteLength)
      throw new ProtocolError('checkpoint channel: held output is cut short');
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.byteLength) {
    const netdev = take(take(2).readUInt16BE(0)).toString('utf8');
    frames.push({ netdev, frame: take(take(4).readUInt32BE(0)) });
  }
  return frames;
}

export interface SectionHeader {
  readonly lengthBytes: number;
  readonly pages: number;
  readonly crc: number;
}

export function encodeSectionHeader({ lengthBytes, pages, crc }: SectionHeader): Buffer {
  const out = Buffer.allocUnsafe(SECTION_HEADER_BYTES);
  out.writeUInt32BE(Math.floor(lengthBytes / 2 ** 32), 0);
  out.writeUInt32BE(lengthBytes >>> 0, 4);
  out.writeUInt32BE(pages, 8);
  out.writeUInt32BE(crc, SECTION_CRC_AT);
  return out;
}

/** Throws ProtocolError when the length is over `maxBytes`. */
export function parseSectionHeader(header: Buffer, maxBytes: number, what: string): SectionHeader {
  const lengthBytes = header.readUInt32BE(0) * 2 ** 32 + header.readUInt32BE(4);
  if (lengthBytes > maxBytes) {
    throw new ProtocolError(
      `checkpoint channel: ${what} of ${lengthBytes} bytes, at most ${maxBytes} expected`,
    );
  }
  return { lengthBytes, pages: header.readUInt32BE(8), crc: header.readUInt32BE(12) };
}

/** Throws ProtocolError when the body, whose checksum is `crc`, is not the one that the header was made for. */
export function checkSection(header: SectionHeader, crc: number, what: string): void {
  if (crc !== header.crc) {
    throw new ProtocolError(
      `checkpoint channel: checksum of ${what} does not match; it was damaged on its way`,
    );
  }
}
