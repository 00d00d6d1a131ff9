/**
 * A queue of things in one array: both ends in constant time, and an insertion moves what is nearer to its end.
 *
 * A queue that was long keeps nothing of it once it is empty: there may be thousands of queues. Yet a queue that fills
 * and empties from burst to burst would make new arrays each time; so arrays that are not needed go to the next queue
 * that grows, of whichever comparer.
 */

const FIRST_CAPACITY = 8;
/** An array that has been larger is given back when it is empty. */
const KEPT_CAPACITY = 64;
/** Places in the arrays that wait for another queue. */
export const MAX_SPARE_PLACES = 65_536;

/** Arrays of `null` by the power of two that is their length. */
const spareArrays: null[][][] = [];
let sparePlaces = 0;

function takeArray(length: number): null[] {
  const spare = spareArrays[Math.log2(length)]?.pop();
  if (spare === undefined) return new Array<null>(length).fill(null);
  sparePlaces -= length;
  return spare;
}

/** All places must be null again. */
function giveArray(array: null[]): void {
  if (array.length === 0 || sparePlaces + array.length > MAX_SPARE_PLACES) return;
  sparePlaces += array.length;
  (spareArrays[Math.log2(array.length)] ??= []).push(array);
}

export class Ring<T> {
  #slots: (T | null)[] = [];
  #first = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** `at` counts from the front and must be below `length`. */
  get(at: number): T {
    return this.#slots[(this.#first + at) & (this.#slots.length - 1)]!;
  }

  first(): T | null {
    return this.#length === 0 ? null : this.#slots[this.#first]!;
  }

  last(): T | null {
    return this.#length === 0 ? null : this.get(this.#length - 1);
  }

  push(item: T): void {
    if (this.#length === this.#slots.length) this.#grow();
    this.#slots[(this.#first + this.#length) & (this.#slots.length - 1)] = item;
    this.#length++;
  }

  /** Puts `item` at place `at`, which is at most `length`. */
  insert(at: number, item: T): void {
    if (this.#length === this.#slots.length) this.#grow();
    const slots = this.#slots;
    const mask = slots.length - 1;
    if (at < this.#length >>> 1) {
      this.#first = (this.#first - 1) & mask;
      const first = this.#first;
      for (let place = 0; place < at; place++)
        slots[(first + place) & mask] = slots[(first + place + 1) & mask]!;
    } else {
      const first = this.#first;
      for (let place = this.#length; place > at; place--) {
        slots[(first + place) & mask] = slots[(first + place - 1) & mask]!;
      }
    }
    slots[(this.#first + at) & mask] = item;
    this.#length++;
  }

  /** Takes the front, or null. */
  shift(): T | null {
    if (this.#length === 0) return null;
    const item = this.#slots[this.#first]!;
    this.#slots[this.#first] = null;
    this.#first = (this.#first + 1) & (this.#slots.length - 1);
    this.#length--;
    if (this.#length === 0) this.clear();
    return item;
  }

  clear(): void {
    if (this.#length > 0) this.#slots.fill(null);
    this.#first = 0;
    this.#length = 0;
    if (this.#slots.length <= KEPT_CAPACITY) return;
    giveArray(this.#slots as null[]);
    this.#slots = takeArray(KEPT_CAPACITY);
  }

  #grow(): void {
    const old = this.#slots;
    const mask = old.length - 1;
    const slots: (T | null)[] = takeArray(Math.max(FIRST_CAPACITY, old.length * 2));
    for (let at = 0; at < this.#length; at++) {
      const place = (this.#first + at) & mask;
      slots[at] = old[place]!;
      old[place] = null;
    }
    giveArray(old as null[]);
    this.#slots = slots;
    this.#first = 0;
  }
}
