/**
 * RFB as far as a middleman needs it who has to know where messages end (RFC 6143, and QEMU's docs/interop/vnc-ledstate
 * and rfbproto's community version for the pseudo-encodings). Sizes only; what a message means is the two ends' affair.
 */
import { ProtocolError } from '../../base/errors.ts';

export const RFB_VERSION = 'RFB 003.008\n';
export const SECURITY_NONE = 1;

/** A whole update of a big screen, uncompressed. */
const MAX_SERVER_MESSAGE_BYTES = 64 * 1024 * 1024;
/** What a client pastes. QEMU takes 1 MiB. */
const MAX_CLIENT_MESSAGE_BYTES = 1024 * 1024 + 1024;

export const ENCODING = {
  raw: 0,
  copyRect: 1,
  rre: 2,
  hextile: 5,
  desktopSize: -223,
  cursor: -239,
  pointerType: -257,
  extendedKey: -258,
  ledState: -261,
  desktopName: -307,
  extendedDesktopSize: -308,
} as const;

/** Encodings that need no more than the message they are in: another server can go on with them. */
const STATELESS: ReadonlySet<number> = new Set(Object.values(ENCODING));

/** What is known of a connection's picture. */
export interface Picture {
  width: number;
  height: number;
  bytesPerPixel: number;
}

export interface ServerMessage {
  /** A FramebufferUpdate's encodings; null for other messages. */
  readonly encodings: readonly number[] | null;
}

/** Asks for so many bytes; gets their place. */
type Parse<T> = Generator<number, T, number>;

interface Source {
  readonly bytes: Buffer;
}

/** Cuts a stream into messages. A message is given out whole; the view is valid during the call only. */
export class MessageCutter<T> {
  bytes: Buffer = Buffer.alloc(4096);
  readonly #parse: (source: Source) => Parse<T>;
  readonly #limit: number;
  readonly #onMessage: (message: Buffer, about: T) => void;
  #length = 0;
  /** The current message's first byte, and what of it has been looked at. */
  #start = 0;
  #at = 0;
  #running: Parse<T> | null = null;
  #needed = 0;

  constructor(
    parse: (source: Source) => Parse<T>,
    limit: number,
    onMessage: (message: Buffer, about: T) => void,
  ) {
    this.#parse = parse;
    this.#limit = limit;
    this.#onMessage = onMessage;
  }

  /** Throws ProtocolError for what is no message, or a too long one. */
  push(chunk: Buffer): void {
    this.#append(chunk);
    for (;;) {
      if (!this.#running) {
        this.#running = this.#parse(this);
        this.#needed = this.#running.next().value as number;
      }
      if (this.#at - this.#start + this.#needed > this.#limit)
        throw new ProtocolError('RFB: too long a message');
      if (this.#at + this.#needed > this.#length) return;
      const at = this.#at;
      this.#at += this.#needed;
      const step = this.#running.next(at);
      if (step.done !== true) {
        this.#needed = step.value;
        continue;
      }
      const message = this.bytes.subarray(this.#start, this.#at);
      this.#running = null;
      this.#start = this.#at;
      this.#onMessage(message, step.value);
    }
  }

  #append(chunk: Buffer): void {
    if (this.#length + chunk.length > this.bytes.length) {
      const kept = this.#length - this.#start;
      // Offsets that a parser has are used at once, so moving what is kept is safe between two steps of it.
      const roomy =
        kept + chunk.length > this.bytes.length ? Buffer.alloc(2 * (kept + chunk.length)) : this.bytes;
      this.bytes.copy(roomy, 0, this.#start, this.#length);
      this.bytes = roomy;
      this.#at -= this.#start;
      this.#length = kept;
      this.#start = 0;
    }
    chunk.copy(this.bytes, this.#length);
    this.#length += chunk.length;
  }
}

export function clientMessages(onMessage: (message: Buffer) => void): MessageCutter<void> {
  return new MessageCutter(clientMessage, MAX_CLIENT_MESSAGE_BYTES, onMessage);
}

export function serverMessages(
  picture: Picture,
  onMessage: (message: Buffer, about: ServerMessage) => void,
): MessageCutter<ServerMessage> {
  return new MessageCutter((source) => serverMessage(source, picture), MAX_SERVER_MESSAGE_BYTES, onMessage);
}

/** Bytes after the first one, of messages that are always as long. */
const CLIENT_LENGTHS: Readonly<Record<number, number>> = { 0: 19, 3: 9, 4: 7, 5: 5, 250: 3 };

/** The place is asked for first: the buffer may be another one afterwards. */
function* byte(source: Source): Parse<number> {
  const at = yield 1;
  return source.bytes[at] ?? 0;
}

function* clientMessage(source: Source): Parse<void> {
  const type = yield* byte(source);
  const length = CLIENT_LENGTHS[type];
  if (length !== undefined) yield length;
  else if (type === 2) {
    const at = yield 3;
    yield 4 * source.bytes.readUInt16BE(at + 1);
  } else if (type === 6) {
    const at = yield 7;
    yield Math.abs(source.bytes.readInt32BE(at + 3));
  } else if (type === 251) {
    const at = yield 7;
    yield 16 * (source.bytes[at + 5] ?? 0);
  } else if (type === 255) {
    if ((yield* byte(source)) === 0) yield 10;
    else throw new ProtocolError('RFB: an audio message of a client');
  } else throw new ProtocolError(`RFB: a client's message of type ${type}`);
}

function* serverMessage(source: Source, picture: Picture): Parse<ServerMessage> {
  const type = yield* byte(source);
  if (type === 0) {
    const encodings: number[] = [];
    const at = yield 3;
    const count = source.bytes.readUInt16BE(at + 1);
    for (let rect = 0; rect < count; rect++) encodings.push(yield* rectangle(source, picture));
    return { encodings };
  }
  if (type === 1) {
    const at = yield 5;
    yield 6 * source.bytes.readUInt16BE(at + 3);
  } else if (type === 3) {
    const at = yield 7;
    yield Math.abs(source.bytes.readInt32BE(at + 3));
  } else if (type === 250) yield 3;
  else if (type !== 2) throw new ProtocolError(`RFB: a server's message of type ${type}`);
  return { encodings: null };
}

function* rectangle(source: Source, picture: Picture): Parse<number> {
  const at = yield 12;
  const { bytes } = source;
  const [width, height] = [bytes.readUInt16BE(at + 4), bytes.readUInt16BE(at + 6)];
  const encoding = bytes.readInt32BE(at + 8);
  const { bytesPerPixel } = picture;
  switch (encoding) {
    case ENCODING.raw:
      yield width * height * bytesPerPixel;
      break;
    case ENCODING.copyRect:
      yield 4;
      break;
    case ENCODING.rre: {
      const count = yield 4;
      yield bytesPerPixel + source.bytes.readUInt32BE(count) * (bytesPerPixel + 8);
      break;
    }
    case ENCODING.hextile:
      for (let y = 0; y < height; y += 16) {
        for (let x = 0; x < width; x += 16) {
          yield* tile(source, Math.min(16, width - x) * Math.min(16, height - y), bytesPerPixel);
        }
      }
      break;
    case ENCODING.cursor:
      yield width * height * bytesPerPixel + Math.ceil(width / 8) * height;
      break;
    case ENCODING.desktopSize:
      picture.width = width;
      picture.height = height;
      break;
    case ENCODING.extendedDesktopSize: {
      const screens = yield 4;
      yield 16 * (source.bytes[screens] ?? 0);
      picture.width = width;
      picture.height = height;
      break;
    }
    case ENCODING.desktopName: {
      const length = yield 4;
      yield source.bytes.readUInt32BE(length);
      break;
    }
    case ENCODING.ledState:
      yield 1;
      break;
    case ENCODING.pointerType:
    case ENCODING.extendedKey:
      break;
    default:
      throw new ProtocolError(`RFB: a rectangle in encoding ${encoding}`);
  }
  return encoding;
}

function* tile(source: Source, pixels: number, bytesPerPixel: number): Parse<void> {
  const kind = yield* byte(source);
  if (kind & 1) {
    yield pixels * bytesPerPixel;
    return;
  }
  const colours = ((kind & 2) >> 1) + ((kind & 4) >> 2);
  if (colours > 0) yield colours * bytesPerPixel;
  if (!(kind & 8)) return;
  const count = yield* byte(source);
  yield count * (kind & 16 ? bytesPerPixel + 2 : 2);
}

/** Whether a client's message is for the guest: a key, the pointer, what it pastes, a key in QEMU's own form. */
export function isInput(message: Buffer): boolean {
  const [type, subtype] = message;
  return type === 4 || type === 5 || type === 6 || (type === 255 && subtype === 0);
}

/** A client's SetEncodings with those alone that another server could go on with. */
export function statelessEncodings(message: Buffer): Buffer {
  const kept: number[] = [];
  for (let at = 4; at + 4 <= message.length; at += 4) {
    const encoding = message.readInt32BE(at);
    if (STATELESS.has(encoding)) kept.push(encoding);
  }
  const out = Buffer.alloc(4 + 4 * kept.length);
  out[0] = 2;
  out.writeUInt16BE(kept.length, 2);
  kept.forEach((encoding, at) => out.writeInt32BE(encoding, 4 + 4 * at));
  return out;
}

export function hasEncoding(message: Buffer | null, encoding: number): boolean {
  for (let at = 4; message && at + 4 <= message.length; at += 4) {
    if (message.readInt32BE(at) === encoding) return true;
  }
  return false;
}

/** FramebufferUpdateRequest for all of it, whether it has changed or not. */
export function fullRequest({ width, height }: Picture): Buffer {
  const out = Buffer.alloc(10);
  out[0] = 3;
  out.writeUInt16BE(width, 6);
  out.writeUInt16BE(height, 8);
  return out;
}

/** A FramebufferUpdate that tells a new size. */
export function resizeMessage({ width, height }: Picture, isExtended: boolean): Buffer {
  const out = Buffer.alloc(isExtended ? 36 : 16);
  out.writeUInt16BE(1, 2);
  out.writeUInt16BE(width, 8);
  out.writeUInt16BE(height, 10);
  out.writeInt32BE(isExtended ? ENCODING.extendedDesktopSize : ENCODING.desktopSize, 12);
  if (!isExtended) return out;
  out[16] = 1;
  out.writeUInt16BE(width, 28);
  out.writeUInt16BE(height, 30);
  return out;
}
