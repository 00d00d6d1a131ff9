/**
 * The state of the devices that an engine captured or loaded last: what the next snapshot tells the difference from, and
 * by what the rate of the guest's counter is known when its clock has to be moved (guest-clock.ts).
 */
import { ProtocolError } from '../../base/errors.ts';
import type { Snapshot } from '../engine.ts';
import { decodeDevice, encodeDevice } from './device-codec.ts';
import type { DeviceState } from './device-codec.ts';
import { moveClock } from './guest-clock.ts';

/** A load after which the guest stayed stopped for longer says nothing about the next one. */
const MAX_FEED_MS = 500;

export class DeviceHistory {
  #last: DeviceState | null = null;
  /** When a clock was moved last, and how long it took from there until the guest ran. */
  #movedAt = -Infinity;
  #feedMs = 10;

  /** Whoever takes a snapshot in full holds nothing of ours. */
  forget(): void {
    this.#last = null;
  }

  /** The device part of a snapshot. */
  encode(state: DeviceState): Uint8Array {
    const encoded = encodeDevice(state, this.#last);
    this.#last = state;
    return encoded;
  }

  /** Throws ProtocolError. The last one that has a device part counts; it may build on those before. */
  decode(snapshots: readonly Snapshot[], changes: readonly { readonly id: bigint }[]): DeviceState {
    let state: DeviceState | null = null;
    for (const [at, { device }] of snapshots.entries()) {
      if (device.length > 0) state = decodeDevice(device, changes[at]!.id, state ?? this.#last);
    }
    if (!state) throw new ProtocolError('snapshot: the state of the devices is missing');
    return state;
  }

  /** The stream with the clock as it shall be when the guest runs, which is a moment after this. */
  caughtUp({ stream }: DeviceState, lateMs: number): Uint8Array {
    this.#movedAt = performance.now();
    return moveClock(stream, this.#last?.stream ?? null, lateMs + this.#feedMs);
  }

  loaded(state: DeviceState): void {
    this.#last = state;
  }

  runs(): void {
    const feedMs = performance.now() - this.#movedAt;
    if (feedMs < MAX_FEED_MS) this.#feedMs = feedMs;
    this.#movedAt = -Infinity;
  }
}
