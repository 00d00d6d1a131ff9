/**
 * The random numbers behind the guest's RDRAND and RDSEED. Both copies of a guest must draw the same ones from a
 * checkpoint on, or every key and sequence number made from them differs: so they come from a generator (SHA-256 over
 * a secret seed and a counter) whose position travels in snapshots. The seed is as secret as the guest's memory is.
 */
import { createHash, randomBytes } from 'node:crypto';

const WORDS = 8;

export interface RandomPosition {
  /** 32 bytes, hexadecimal. */
  readonly seed: string;
  /** 32 bit words drawn so far. */
  readonly drawn: number;
}

export class GuestRandom {
  #seed: Buffer = randomBytes(32);
  #drawn = 0;
  #block: Buffer | null = null;

  get position(): RandomPosition {
    return { seed: this.#seed.toString('hex'), drawn: this.#drawn };
  }

  set position(to: RandomPosition) {
    this.#seed = Buffer.from(to.seed, 'hex');
    this.#drawn = to.drawn;
    this.#block = null;
  }

  /** A signed 32 bit number. */
  readonly next = (): number => {
    const word = this.#drawn % WORDS;
    if (word === 0) this.#block = null;
    this.#block ??= createHash('sha256')
      .update(this.#seed)
      .update(String((this.#drawn - word) / WORDS))
      .digest();
    this.#drawn++;
    return this.#block.readInt32LE(word * 4);
  };
}
