/** A queue of things in one array: both ends in constant time, and an insertion moves what is nearer to its end. */

const FIRST_CAPACITY = 8;
/** An array that has been larger is given back when it is empty. */
const KEPT_CAPACITY = 64;

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
    if (this.#slots.length > KEPT_CAPACITY) this.#slots = [];
    else if (this.#length > 0) this.#slots.fill(null);
    this.#first = 0;
    this.#length = 0;
  }

  #grow(): void {
    const old = this.#slots;
    const mask = old.length - 1;
    const slots = new Array<T | null>(Math.max(FIRST_CAPACITY, old.length * 2)).fill(null);
    for (let at = 0; at < this.#length; at++) slots[at] = old[(this.#first + at) & mask]!;
    this.#slots = slots;
    this.#first = 0;
  }
}
