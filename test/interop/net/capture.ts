/** Capture files of libpcap's classic format, little-endian, as filter-dump writes them. */
import { readFile } from 'node:fs/promises';

/** The packets in it, as far as they were kept. */
export async function readCapture(file: string): Promise<Uint8Array[]> {
  const bytes = await readFile(file);
  const packets: Uint8Array[] = [];
  for (let at = 24; at + 16 <= bytes.length;) {
    const kept = bytes.readUInt32LE(at + 8);
    packets.push(bytes.subarray(at + 16, at + 16 + kept));
    at += 16 + kept;
  }
  return packets;
}

/** A capture file with all times made the same. */
export function withoutTimes(file: Buffer): Buffer {
  for (let at = 24; at + 16 <= file.length; at += 16 + file.readUInt32LE(at + 8)) file.fill(0, at, at + 8);
  return file;
}
