/** A tiny VNC server on a stream: RFB 3.8 without authentication (RFC 6143), one still picture of stripes, keys that it counts. */
import { Duplex } from 'node:stream';

/** Lengths of a client's messages by type; those with a list say how long it is at an offset. */
const LENGTHS: Readonly<Record<number, (at: Buffer) => number>> = {
  0: () => 20,
  2: (at) => (at.length < 4 ? 4 : 4 + 4 * at.readUInt16BE(2)),
  3: () => 10,
  4: () => 8,
  5: () => 6,
  6: (at) => (at.length < 8 ? 8 : 8 + Math.abs(at.readInt32BE(4))),
};
const WIDTH = 320;
const HEIGHT = 200;

export interface FalseVnc {
  readonly port: Duplex;
  readonly keys: number[];
}

export function falseVnc(): FalseVnc {
  const keys: number[] = [];
  let kept: Buffer = Buffer.alloc(0);
  let step = 0;
  const port: Duplex = new Duplex({
    read: () => undefined,
    write: (bytes: Buffer, _encoding, done) => {
      kept = Buffer.concat([kept, bytes]);
      while (take());
      done();
    },
    final: (done) => {
      port.push(null);
      done();
    },
  });
  const said = (length: number): Buffer | null => {
    if (kept.length < length) return null;
    const bytes = kept.subarray(0, length);
    kept = kept.subarray(length);
    return bytes;
  };
  /** True: there may be more. */
  const take = (): boolean => {
    const opening = [12, 1, 1][step];
    if (opening !== undefined) {
      if (said(opening) === null) return false;
      port.push([Buffer.of(1, 1), Buffer.alloc(4), serverInit()][step]);
      step++;
      return true;
    }
    const type = kept[0];
    if (type === undefined) return false;
    const message = said(LENGTHS[type]?.(kept) ?? kept.length);
    if (message === null) return false;
    if (type === 4) keys.push(message.readUInt32BE(4));
    // The picture stands still: it is told when all of it is asked for.
    if (type === 3 && message[1] === 0) port.push(update());
    return true;
  };
  port.push('RFB 003.008\n');
  return { port, keys };
}

function serverInit(): Buffer {
  const name = Buffer.from('web');
  const head = Buffer.alloc(24);
  head.writeUInt16BE(WIDTH, 0);
  head.writeUInt16BE(HEIGHT, 2);
  Buffer.from('2018000100ff00ff00ff100800000000', 'hex').copy(head, 4);
  head.writeUInt32BE(name.length, 20);
  return Buffer.concat([head, name]);
}

function update(): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt16BE(1, 2);
  head.writeUInt16BE(WIDTH, 8);
  head.writeUInt16BE(HEIGHT, 10);
  const pixels = Buffer.alloc(WIDTH * HEIGHT * 4);
  for (let at = 0; at < WIDTH * HEIGHT; at++) {
    const shade = 40 + ((Math.floor(at / WIDTH) >> 3) % 2) * 30;
    pixels.writeUInt32LE((shade << 16) | ((shade + 30) << 8) | (shade + 70), at * 4);
  }
  return Buffer.concat([head, pixels]);
}
