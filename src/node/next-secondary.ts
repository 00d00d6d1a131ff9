/** Where a VM's next secondary goes, and what it need not be told again: what a controller remembers between two tries. */
import type { RecordId } from '../ha/arbiter/index.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { ControllerParts } from './parts.ts';

export class NextSecondary {
  /** A person wants it there. */
  wanted: string | null = null;
  readonly #parts: Pick<ControllerParts, 'chooseSecondary'>;
  /** Hosts that a try has failed on since the last that has not. */
  #refused: string[] = [];
  #bitmapSince: RecordId | null = null;
  /** Whose disks that bitmap is about. */
  #lastPeer: string | null = null;

  constructor(parts: Pick<ControllerParts, 'chooseSecondary'>) {
    this.#parts = parts;
  }

  /** Of the pair at whose end the bitmap of this process began; null: it tells nothing that could be relied on. */
  get bitmapSince(): RecordId | null {
    return this.#bitmapSince;
  }

  /** The host, or null: there is none now. */
  choose(spec: VmSpec): string | null {
    if (this.wanted !== null) return this.wanted;
    const oldDiskHost = this.#bitmapSince === null ? null : this.#lastPeer;
    const found = this.#parts.chooseSecondary(spec, { refused: this.#refused, oldDiskHost });
    // When all have refused they are asked again, from the best on.
    if (found === null) this.#refused = [];
    return found;
  }

  /** The pair of `pairing` has ended, and this side goes on. */
  parted(pairing: RecordId, peer: string | null): void {
    this.#bitmapSince = pairing;
    this.#lastPeer = peer;
  }

  /** Half a copy, a pair that was not to be, another process: the bitmap has been begun anew, or used up. */
  forgetBitmap(): void {
    this.#bitmapSince = null;
  }

  failedOn(host: string): void {
    this.#refused.push(host);
  }

  succeeded(): void {
    this.#refused = [];
  }
}
