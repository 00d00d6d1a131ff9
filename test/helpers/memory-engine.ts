/**
 * An engine without a machine: some pages of RAM and a word of device state that a test changes by hand. Complete as
 * far as the contract goes, so that the checkpoint frame can be tested without a guest.
 */
import { ProtocolError } from '../../src/base/errors.ts';
import type { CaptureOptions, Engine, EngineState, Snapshot } from '../../src/engine/engine.ts';

const PAGE = 4096;

export class MemoryEngine implements Engine {
  readonly engineName = 'memory';
  readonly ramBytes: number;
  buildId = 'memory-1';
  readonly nics = [];
  readonly serials = [];
  readonly monitor = null;
  onShutdown = null;
  onStopped = null;
  onResumed = null;
  state: EngineState = 'paused';
  readonly ram: Uint8Array;
  device = 0;
  /** How much later than where it stood the clock went on, at each resume. */
  readonly lateMs: number[] = [];
  #baseline: Uint8Array | null = null;
  /** Throw this from the next load after the check, as a broken engine would. */
  loadError: Error | null = null;

  constructor(pages = 16) {
    this.ramBytes = pages * PAGE;
    this.ram = new Uint8Array(this.ramBytes);
  }

  start(): Promise<void> {
    return Promise.resolve();
  }

  pause(): Promise<void> {
    this.state = 'paused';
    return Promise.resolve();
  }

  resume(lateMs = 0): Promise<void> {
    this.state = 'running';
    this.lateMs.push(lateMs);
    return Promise.resolve();
  }

  reset(): Promise<void> {
    return Promise.resolve();
  }

  capture({ full, ramOnly }: CaptureOptions): Promise<Snapshot> {
    const changed: number[] = [];
    for (let page = 0; page * PAGE < this.ramBytes; page++) {
      const now = this.#page(this.ram, page);
      if (full || !this.#baseline || Buffer.compare(now, this.#page(this.#baseline, page)) !== 0)
        changed.push(page);
    }
    const ram = new Uint8Array(changed.length * (PAGE + 4));
    const view = new DataView(ram.buffer);
    for (const [at, page] of changed.entries()) {
      view.setUint32(at * (PAGE + 4), page);
      ram.set(this.#page(this.ram, page), at * (PAGE + 4) + 4);
    }
    this.#baseline = this.ram.slice();
    const device = new Uint8Array(ramOnly ? 0 : 4);
    if (!ramOnly) new DataView(device.buffer).setUint32(0, this.device);
    return Promise.resolve({ ram, device, pages: changed.length });
  }

  load(snapshots: readonly Snapshot[]): Promise<void> {
    for (const { ram } of snapshots) {
      if (ram.byteLength % (PAGE + 4) !== 0) return Promise.reject(new ProtocolError('not a snapshot'));
    }
    if (this.loadError) return Promise.reject(this.loadError);
    if (this.#baseline) this.ram.set(this.#baseline);
    for (const { ram, device } of snapshots) {
      const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
      for (let at = 0; at < ram.byteLength; at += PAGE + 4) {
        this.ram.set(ram.subarray(at + 4, at + 4 + PAGE), view.getUint32(at) * PAGE);
      }
      if (device.byteLength > 0) this.device = new DataView(device.buffer, device.byteOffset).getUint32(0);
    }
    this.#baseline = this.ram.slice();
    return Promise.resolve();
  }

  stop(): Promise<void> {
    this.state = 'stopped';
    return Promise.resolve();
  }

  #page(memory: Uint8Array, page: number): Uint8Array {
    return memory.subarray(page * PAGE, (page + 1) * PAGE);
  }
}
