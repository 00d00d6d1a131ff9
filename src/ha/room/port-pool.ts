/**
 * TCP ports for the links of pairs, out of the node's range: free is what can be bound right now and has been given to
 * nobody else. Goes round the range, so that a port that was given back rests for a while. A daemon that starts anew knows
 * no leases; what living processes listen on cannot be bound.
 */
import { once } from 'node:events';
import net from 'node:net';
import { ColoError, messageOf } from '../../base/errors.ts';
import type { PortLease } from '../room.ts';

export class PortPool {
  readonly #address: string;
  readonly #first: number;
  readonly #last: number;
  readonly #taken = new Set<number>();
  #next: number;

  constructor(address: string, [first, last]: readonly [number, number]) {
    this.#address = address;
    this.#first = first;
    this.#last = last;
    this.#next = first;
  }

  /** Throws ColoError when there are not as many. */
  async reserve(count: number): Promise<PortLease> {
    const ports: number[] = [];
    let why: unknown = null;
    for (let tries = this.#last - this.#first + 1; ports.length < count && tries > 0; tries--) {
      const port = this.#next;
      this.#next = port < this.#last ? port + 1 : this.#first;
      if (this.#taken.has(port)) continue;
      // Taken before the question is asked: others ask meanwhile.
      this.#taken.add(port);
      try {
        await this.#bind(port);
        ports.push(port);
      } catch (error) {
        this.#taken.delete(port);
        if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') why = error;
      }
    }
    if (ports.length < count) {
      this.#release(ports);
      throw new ColoError(
        `no ${count} free ports among pairPorts ${this.#first} to ${this.#last} of ${this.#address}` +
          (why === null ? "; widen pairPorts in the node's configuration" : `: ${messageOf(why)}`),
        { cause: why },
      );
    }
    let isHeld = true;
    const release = (): void => {
      if (isHeld) this.#release(ports);
      isHeld = false;
    };
    return { ports, release };
  }

  #release(ports: readonly number[]): void {
    for (const port of ports) this.#taken.delete(port);
  }

  async #bind(port: number): Promise<void> {
    const server = net.createServer();
    server.listen({ port, host: this.#address, exclusive: true });
    await once(server, 'listening');
    server.close();
    await once(server, 'close');
  }
}
