/**
 * One try at a new secondary, from the primary's end: the peer is asked to join, the disks are copied while the guest
 * runs, the guest is handed over. Whoever made it hears how far it came, and undoes it when it fails.
 */
import { ClosedError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { RecordId } from '../ha/arbiter/index.ts';
import type { PairLinks, PortLease, RunningVm } from '../ha/index.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { API_VERSION } from '../api/service.ts';
import type { ControllerParts } from './parts.ts';

export interface ProtectingHooks {
  /** The disks are equal: `handOver` may be called from now on. */
  synced(peer: string): void;
  /** The secondary has the guest and has said so. */
  handedOver(): void;
  failed(error: unknown): void;
  progressed(): void;
}

/** A view of the progress goes out at most so often, milliseconds. */
const TELL_MS = 500;
const log = loggerFor('protecting');

export class Protecting {
  readonly target: string;
  readonly #vm: RunningVm;
  readonly #spec: VmSpec;
  readonly #parts: ControllerParts;
  readonly #bitmapSince: RecordId | null;
  readonly #hooks: ProtectingHooks;
  readonly #abort = new AbortController();
  #links: PairLinks | null = null;
  #isBitmapEnough = false;
  #ports: PortLease | null = null;
  #progress: { readonly doneBytes: number; readonly totalBytes: number } | undefined;
  #told = 0;

  /** `bitmapSince`: see JoinRequest. */
  constructor(
    vm: RunningVm,
    spec: VmSpec,
    target: string,
    bitmapSince: RecordId | null,
    parts: ControllerParts,
    hooks: ProtectingHooks,
  ) {
    this.#bitmapSince = bitmapSince;
    this.#vm = vm;
    this.#spec = spec;
    this.target = target;
    this.#parts = parts;
    this.#hooks = hooks;
  }

  get progress(): { readonly doneBytes: number; readonly totalBytes: number } | undefined {
    return this.#progress;
  }

  /** The peer has not let it begin: nothing has been copied. */
  get isRefused(): boolean {
    return this.#links === null;
  }

  /** The peer has its disks as the bitmap knows them. */
  get isBitmapEnough(): boolean {
    return this.#isBitmapEnough;
  }

  /** Never rejects. */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** From here on the side waits for the peer's word. Never rejects. */
  async handOver(pairing: RecordId): Promise<void> {
    try {
      const links = this.#links;
      if (!links) throw new ClosedError('protection was given up');
      const loaded = this.#parts.peer(this.target).awaitCheckpoint(this.#spec.name, pairing);
      // A peer that fails at once must not end the process while the guest is still being handed over.
      loaded.catch(() => undefined);
      await Promise.all([loaded, this.#parts.steps.enterColo(this.#vm, this.#spec, links)]);
      this.#abort.signal.throwIfAborted();
      this.#ports?.release();
      this.#hooks.handedOver();
    } catch (error) {
      this.#fail(error);
    }
  }

  abandon(reason: Error): void {
    this.#abort.abort(reason);
    this.#ports?.release();
  }

  async #start(): Promise<void> {
    const { room, address, host, disks } = this.#parts;
    const { signal } = this.#abort;
    const spec = this.#spec;
    const ports = (this.#ports = await room.reservePorts(spec.nics.length * 2));
    const nics = spec.nics.map(({ id }, at) => ({
      id,
      mirrorPort: ports.ports[at * 2] ?? 0,
      comparePort: ports.ports[at * 2 + 1] ?? 0,
    }));
    const { links, isBitmapEnough } = await this.#parts.peer(this.target).join({
      version: API_VERSION,
      spec,
      from: host,
      primaryHost: address,
      nics,
      sizes: disks.current().map(({ id, sizeBytes }) => ({ id, sizeBytes })),
      bitmapSince: this.#bitmapSince,
    });
    signal.throwIfAborted();
    this.#links = links;
    this.#isBitmapEnough = isBitmapEnough;
    // The secondary's sockets connect again and again until these are there.
    await this.#parts.steps.openPacketSockets(this.#vm, spec, links);
    signal.throwIfAborted();
    await this.#parts.steps.resync(this.#vm, spec, links, {
      isBitmapEnough,
      signal,
      onProgress: (doneBytes, totalBytes) => this.#onProgress(doneBytes, totalBytes),
    });
    signal.throwIfAborted();
    this.#hooks.synced(this.target);
  }

  #onProgress(doneBytes: number, totalBytes: number): void {
    this.#progress = { doneBytes, totalBytes };
    const now = this.#parts.now();
    if (now - this.#told < TELL_MS) return;
    this.#told = now;
    this.#hooks.progressed();
  }

  #fail(error: unknown): void {
    if (this.#abort.signal.aborted) return;
    log.info({ vm: this.#spec.name, to: this.target, why: messageOf(error) }, 'protection failed');
    this.#hooks.failed(error);
  }
}
