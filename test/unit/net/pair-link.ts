/** What the guests of pair-world.ts say, and the connections on which it travels. */
import type { Datagram } from './datagram-model.ts';
import type { WireFrame } from './property-frames.ts';
import { wireBytes } from './property-rig.ts';
import type { UnkindChardev } from './property-rig.ts';
import type { Spec } from './tcp-model.ts';

/** Something said, with the checkpoint that its speaker lives on. */
export interface Word extends Spec, Datagram {
  readonly frame: WireFrame;
  readonly epoch: number;
  readonly flow: number;
}

/** Bytes of one connection that have been written and not been read. */
export class Link {
  readonly chardev: UnkindChardev;
  #words: { word: Word; end: number }[] = [];
  #bytes: Uint8Array[] = [];
  written = 0;
  read = 0;

  constructor(chardev: UnkindChardev) {
    this.chardev = chardev;
  }

  get inFlight(): number {
    return this.written - this.read;
  }

  write(word: Word): void {
    const bytes = wireBytes(word.frame);
    this.written += bytes.length;
    this.#words.push({ word, end: this.written });
    this.#bytes.push(bytes);
  }

  /** Lets the other end read so many bytes; returns what has become whole. */
  deliver(count: number): Word[] {
    const all = Buffer.concat(this.#bytes);
    const chunk = all.subarray(0, count);
    this.#bytes = [all.subarray(chunk.length)];
    if (chunk.length === 0) return [];
    this.chardev.give(chunk);
    this.read += chunk.length;
    const whole = this.#words.filter(({ end }) => end <= this.read);
    this.#words.splice(0, whole.length);
    return whole.map(({ word }) => word);
  }

  has(isWanted: (word: Word) => boolean): boolean {
    return this.#words.some(({ word }) => isWanted(word));
  }

  break(name: string): void {
    this.#words = [];
    this.#bytes = [];
    this.written = this.read = 0;
    this.chardev.disconnect();
    this.chardev.reconnect(name);
  }
}
