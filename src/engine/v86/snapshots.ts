/**
 * Capture and load of a whole machine against a baseline: the last state captured or loaded, kept as a second copy of
 * RAM (made when first needed) and of the device buffers. All checks of a load come before its first change.
 */
import { randomBytes } from 'node:crypto';
import { ProtocolError } from '../../base/errors.ts';
import { encodeDevice, parseDevice } from './device-codec.ts';
import type { ParsedDevice } from './device-codec.ts';
import type { DeviceBuffers } from './device-tree.ts';
import type { Machine } from './machine.ts';
import { checkMachineState, restoreMachine, saveMachine } from './machine-state.ts';
import type { MachineExtra } from './machine-state.ts';
import type { WireSnapshot } from './protocol.ts';
import { allocateRamChanges, PAGE_BYTES, parseRamChanges } from '../ram/ram-codec.ts';
import type { RamChanges } from '../ram/ram-codec.ts';
import { bufferOver, findChangedPages, findNonZeroPages } from './ram-diff.ts';

interface Baseline {
  readonly ram: Buffer;
  id: bigint;
  /** Null while only RAM has travelled. */
  devices: DeviceBuffers | null;
}

interface Checked {
  readonly ram: RamChanges;
  readonly device: { readonly parsed: ParsedDevice; readonly extra: MachineExtra } | null;
}

export class Snapshots {
  readonly #machine: Machine;
  #baseline: Baseline | null = null;
  readonly #pageList: Uint32Array;

  constructor(machine: Machine) {
    this.#machine = machine;
    this.#pageList = new Uint32Array(machine.ram().length / PAGE_BYTES);
  }

  /** The state becomes the baseline. Throws when there is none to compare with and `full` is false. */
  capture(full: boolean, ramOnly: boolean): WireSnapshot {
    const ram = bufferOver(this.#machine.ram());
    const before = this.#baseline;
    if (!full && !before)
      throw new ProtocolError('capture: nothing was captured or loaded yet; capture in full first');
    const count = full
      ? findNonZeroPages(ram, this.#pageList)
      : findChangedPages(ram, before!.ram, this.#pageList);
    const id = randomBytes(8).readBigUInt64LE();
    const indexes = this.#pageList.subarray(0, count);
    const header = { full, pages: count, ramBytes: ram.length, id, parent: full ? 0n : before!.id };
    const { bytes, data } = allocateRamChanges(header, indexes);
    // Saved before the baseline changes, so that a failure leaves it as it was.
    const saved = ramOnly ? null : saveMachine(this.#machine);
    const baseline = before ?? { ram: Buffer.from(new ArrayBuffer(ram.length)), id, devices: null };
    if (full && before) baseline.ram.fill(0);
    for (let at = 0; at < count; at++) {
      const start = indexes[at]! * PAGE_BYTES;
      const page = ram.subarray(start, start + PAGE_BYTES);
      data.set(page, at * PAGE_BYTES);
      baseline.ram.set(page, start);
    }
    let device = new Uint8Array(0);
    if (saved) {
      const isWhole = full || !baseline.devices;
      const devices: DeviceBuffers = isWhole ? new Map<string, Uint8Array>() : baseline.devices!;
      device = encodeDevice({ id, tree: saved.tree, extra: saved.extra }, saved.buffers, devices);
      baseline.devices = devices;
    } else if (full) baseline.devices = null;
    baseline.id = id;
    this.#baseline = baseline;
    return { ram: bytes, device, pages: count };
  }

  /** The machine stands still. Throws ProtocolError, with nothing changed, when a snapshot does not fit. */
  load(snapshots: readonly WireSnapshot[]): void {
    if (snapshots.length === 0) return;
    const checked = this.#check(snapshots);
    const ram = bufferOver(this.#machine.ram());
    const baseline = this.#baseline ?? {
      ram: Buffer.from(new ArrayBuffer(ram.length)),
      id: 0n,
      devices: null,
    };
    this.#baseline = baseline;
    for (const { ram: changes, device } of checked) {
      if (changes.full) baseline.ram.fill(0);
      for (let at = 0; at < changes.pages; at++) {
        const from = at * PAGE_BYTES;
        baseline.ram.set(changes.data.subarray(from, from + PAGE_BYTES), changes.indexes[at]! * PAGE_BYTES);
      }
      baseline.id = changes.id;
      if (device) baseline.devices = device.parsed.buffers;
      else if (changes.full) baseline.devices = null;
    }
    this.#copyBaselineToRam(ram, baseline.ram);
    const last = checked.findLast((item) => item.device !== null)?.device;
    if (last) restoreMachine(this.#machine, last.parsed.tree, last.extra, last.parsed.buffers);
  }

  /** One pass both undoes what this guest did itself and applies what came; equal pages keep their compiled code. */
  #copyBaselineToRam(ram: Buffer, wanted: Buffer): void {
    const count = findChangedPages(ram, wanted, this.#pageList);
    for (let at = 0; at < count; at++) {
      const start = this.#pageList[at]! * PAGE_BYTES;
      ram.set(wanted.subarray(start, start + PAGE_BYTES), start);
      this.#machine.cpu.jit_dirty_cache(start, start + PAGE_BYTES);
    }
  }

  #check(snapshots: readonly WireSnapshot[]): Checked[] {
    const ramBytes = this.#machine.ram().length;
    let id = this.#baseline?.id ?? null;
    let devices = this.#baseline?.devices ?? null;
    return snapshots.map((snapshot) => {
      const ram = parseRamChanges(snapshot.ram, ramBytes);
      if (!ram.full && ram.parent !== id) {
        throw new ProtocolError(
          'snapshot: builds on a state that this machine does not hold; a full one is needed',
        );
      }
      id = ram.id;
      if (ram.full) devices = null;
      if (snapshot.device.length === 0) return { ram, device: null };
      const parsed = parseDevice(snapshot.device, devices);
      if (parsed.id !== ram.id) throw new ProtocolError('snapshot: its two parts belong to different states');
      const extra = checkMachineState(this.#machine, parsed.tree, parsed.extra, parsed.buffers);
      devices = parsed.buffers;
      return { ram, device: { parsed, extra } };
    });
  }
}
