/**
 * The ordered list of filters on one netdev: where a new one goes, and how a packet walks it. A tx packet walks
 * head → tail, an rx packet tail → head; filters of the other direction and disabled ones are skipped.
 * Facts: docs/qemu-behaviour.md 2.1-2.3 (QEMU net/filter.c, netfilter_complete and qemu_netfilter_pass_to_next).
 */
import { ParameterError } from '../base/errors.ts';
import type { Direction, NetFilter } from './filter.ts';

export interface FilterPlace {
  /** `head`, `tail` (default), `id=<filter>`; a bare `<filter>` is understood as an id. */
  readonly position?: string;
  /** Only used beside a named filter. Default `behind`; `before` is nearer the head. */
  readonly insert?: string;
}

export class FilterChain {
  readonly #filters: NetFilter[] = [];

  get filters(): readonly NetFilter[] {
    return this.#filters;
  }

  /** Throws ParameterError with QEMU's texts and changes nothing when the place makes no sense. */
  insert(filter: NetFilter, place: FilterPlace = {}): void {
    const behind = parseInsert(place.insert);
    const position = place.position ?? 'tail';
    if (position === 'head') this.#filters.unshift(filter);
    else if (position === 'tail') this.#filters.push(filter);
    else {
      const anchor = this.#find(position);
      this.#filters.splice(behind ? anchor + 1 : anchor, 0, filter);
    }
  }

  remove(filter: NetFilter): boolean {
    const at = this.#filters.indexOf(filter);
    if (at >= 0) this.#filters.splice(at, 1);
    return at >= 0;
  }

  byId(id: string): NetFilter | undefined {
    return this.#filters.find((filter) => filter.id === id);
  }

  /** True: a filter took the packet. False: it came out at the other end and is the caller's. */
  walk(packet: Uint8Array, direction: Direction): boolean {
    const filters = this.#filters;
    return this.#walkFrom(direction === 'tx' ? 0 : filters.length - 1, packet, direction);
  }

  /** The rest of the walk, from behind `from`. A filter that is no longer in the chain has nothing behind it. */
  walkOn(from: NetFilter, packet: Uint8Array, direction: Direction): boolean {
    const at = this.#filters.indexOf(from);
    if (at < 0) return true;
    return this.#walkFrom(direction === 'tx' ? at + 1 : at - 1, packet, direction);
  }

  #walkFrom(start: number, packet: Uint8Array, direction: Direction): boolean {
    const filters = this.#filters;
    const step = direction === 'tx' ? 1 : -1;
    for (let at = start; at >= 0 && at < filters.length; at += step) {
      const filter = filters[at]!;
      if (!filter.enabled || (filter.queue !== 'all' && filter.queue !== direction)) continue;
      if (filter.receive(packet, direction)) return true;
    }
    return false;
  }

  #find(position: string): number {
    const isPrefixed = position.startsWith('id=');
    const id = isPrefixed ? position.slice('id='.length) : position;
    const at = this.#filters.findIndex((filter) => filter.id === id);
    if (at >= 0) return at;
    if (isPrefixed) throw new ParameterError(`filter '${id}' not found`);
    throw new ParameterError("Parameter 'position' expects 'head', 'tail' or 'id=<id>'");
  }
}

function parseInsert(insert: string | undefined): boolean {
  if (insert === undefined || insert === 'behind') return true;
  if (insert === 'before') return false;
  throw new ParameterError(`Parameter 'insert' does not accept value '${insert}'`);
}
