/**
 * The guest's clock in a device stream: QEMU's section `timer` (cpu_ticks_offset, a word that means nothing,
 * cpu_clock_offset), where a stopped TCG machine has its time stamp counter and its nanoseconds. A loaded guest goes on
 * from there, so moving both ahead alike lets it skip the time that the load took, as after a moment without a CPU.
 *
 * Asked of QEMU 7.2: HPET, PIT, the ACPI timer and the local APIC count by that clock, the RTC by the host's. Under KVM
 * the TSC is in the vCPUs' own state and kvmclock in a section of its own: nothing is moved there.
 */

/** The section's id string with its length, instance 0, version 2 (QEMU: docs/devel/migration, stream structure). */
const HEADER = Buffer.from('\x05timer\0\0\0\0\0\0\0\x02', 'latin1');
const FIELDS_BYTES = 24;
/** What a section of that form has in front: its kind (full) and a u32, which its footer repeats. */
const SECTION_FULL = 4;
const SECTION_FOOTER = 0x7e;
const NANOSECONDS = 1_000_000n;

export interface GuestClock {
  /** Where its fields are in the stream. */
  readonly at: number;
  readonly ticks: bigint;
  readonly nanoseconds: bigint;
}

/** Null: not found, or more than once (a guest can write what it likes into its video memory). */
export function findClock(stream: Uint8Array): GuestClock | null {
  const bytes = Buffer.from(stream.buffer, stream.byteOffset, stream.length);
  let found: GuestClock | null = null;
  for (let from = bytes.indexOf(HEADER); from >= 0; from = bytes.indexOf(HEADER, from + 1)) {
    const at = from + HEADER.length;
    const end = at + FIELDS_BYTES;
    if (from < 5 || end + 5 > bytes.length) continue;
    if (bytes[from - 5] !== SECTION_FULL || bytes[end] !== SECTION_FOOTER) continue;
    if (bytes.readUInt32BE(from - 4) !== bytes.readUInt32BE(end + 1)) continue;
    if (found) return null;
    found = { at, ticks: bytes.readBigInt64BE(at), nanoseconds: bytes.readBigInt64BE(at + 16) };
  }
  return found;
}

/**
 * A copy of `stream` whose clock is `ms` ahead; as it is when there is no clock to be found. `before`: an earlier stream
 * of the same guest, by which the rate of its counter is known; without one it is as if both had begun at once.
 */
export function moveClock(stream: Uint8Array, before: Uint8Array | null, ms: number): Uint8Array {
  const clock = findClock(stream);
  if (!clock || !(ms > 0)) return stream;
  const earlier = (before && findClock(before)) ?? { ticks: 0n, nanoseconds: 0n };
  const ahead = BigInt(Math.round(ms * 1000)) * (NANOSECONDS / 1000n);
  const moved = Buffer.from(stream);
  moved.writeBigInt64BE(clock.nanoseconds + ahead, clock.at + 16);
  const passed = clock.nanoseconds - earlier.nanoseconds;
  const counted = clock.ticks - earlier.ticks;
  if (passed > 0n && counted > 0n) {
    moved.writeBigInt64BE(clock.ticks + (ahead * counted) / passed, clock.at);
  }
  return moved;
}
