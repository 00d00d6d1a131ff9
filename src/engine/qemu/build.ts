/**
 * What both sides of a pair must have alike, as texts that a person can compare, and the hash of them: a state of one
 * QEMU fits another only on the same machine. RAM, disks and NICs are compared by number and size elsewhere.
 */
import { createHash } from 'node:crypto';
import type { QemuSpec } from './spec.ts';

/** Longest text, and most of them: what is beyond counts in the hash alone. */
const MAX_PART_LENGTH = 512;
const MAX_PARTS = 128;

/** In an order that does not depend on that of the options; devices keep theirs, it decides where they are plugged. */
export function buildParts(spec: QemuSpec): string[] {
  const isDevice = (text: string): boolean => text.startsWith('-device ');
  const { qemu, machine, identity, disks, nics } = spec;
  return [
    `QEMU ${qemu.version}`,
    `-machine ${machine}`,
    ...identity.filter((text) => !isDevice(text)).sort(),
    ...identity.filter(isDevice),
    ...disks.map(({ disk, how, options }) => [`disk ${disk.id} by -${how}`, ...options].join(',')),
    `${spec.serialPorts} serial port(s)`,
    ...nics.map(
      ({ id, netdev, mac, isVirtio }) =>
        `NIC ${id} on ${netdev} with ${Buffer.from(mac).toString('hex')}${isVirtio === true ? ' and offloads' : ''}`,
    ),
  ];
}

export function hashParts(parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
}

/** As they go to the other side, for the message of a refusal. */
export function tellableParts(parts: readonly string[]): string[] {
  return parts.slice(0, MAX_PARTS).map((text) => text.slice(0, MAX_PART_LENGTH));
}
