/**
 * What a comparer owes a flow of datagrams: the primary's leave in their own order, the first as soon as the secondary has
 * said its like (each of the secondary's serves one); what it said in which order does not matter. Checkpoints as in
 * tcp-model.ts.
 */
export interface Datagram {
  /** Two are alike when this is. */
  readonly content: string;
}

export class DatagramModel<T extends Datagram> {
  queue: T[] = [];
  closed: T[] = [];
  isClosing = false;
  /** The first in the queue had no like among those that the secondary has said: a request is allowed. */
  hasConflict = false;
  readonly #said = new Map<string, number>();

  primary(datagram: T, isClosedEpoch = false): T[] {
    if (isClosedEpoch && !this.isClosing) return [datagram];
    (isClosedEpoch ? this.closed : this.queue).push(datagram);
    return this.#leave();
  }

  secondary({ content }: Datagram): T[] {
    this.#said.set(content, (this.#said.get(content) ?? 0) + 1);
    return this.#leave();
  }

  stop(): void {
    this.isClosing = true;
    this.closed.push(...this.queue);
    this.queue = [];
    this.#said.clear();
    this.hasConflict = false;
  }

  commit(): T[] {
    const left = this.closed;
    this.closed = [];
    this.isClosing = false;
    return [...left, ...this.#leave()];
  }

  #leave(): T[] {
    if (this.isClosing) return [];
    const left: T[] = [];
    for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
      const count = this.#said.get(first.content) ?? 0;
      if (count === 0) break;
      if (count === 1) this.#said.delete(first.content);
      else this.#said.set(first.content, count - 1);
      left.push(first);
      this.queue.shift();
    }
    this.hasConflict ||= this.queue.length > 0 && this.#said.size > 0;
    return left;
  }
}
