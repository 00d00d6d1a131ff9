/** The TCP payload that one side has said, byte by byte, by connection and sequence number. */
import { PacketView } from '../../src/net/packet.ts';

export class Said {
  readonly #flows = new Map<string, Map<number, number>>();
  readonly #view = new PacketView();

  add(frame: Uint8Array): void {
    this.#each(frame, (bytes, sequence, value) => {
      bytes.set(sequence, value);
      return true;
    });
  }

  /** Whether every byte of the frame's payload has been said before. */
  has(frame: Uint8Array): boolean {
    return this.#each(frame, (bytes, sequence, value) => bytes.get(sequence) === value);
  }

  #each(
    frame: Uint8Array,
    visit: (bytes: Map<number, number>, sequence: number, value: number) => boolean,
  ): boolean {
    const view = this.#view;
    view.parse(frame);
    if (!view.isTcp) return true;
    const name = `${view.sourcePort} ${view.destinationAddress}:${view.destinationPort}`;
    const bytes = this.#flows.get(name) ?? new Map<number, number>();
    this.#flows.set(name, bytes);
    for (let at = 0; at < view.payloadBytes; at++) {
      if (!visit(bytes, (view.sequence + at) >>> 0, frame[view.payloadAt + at]!)) return false;
    }
    return true;
  }
}
