/**
 * `-netdev hubport`: a port of a hub inside the process. What one port is given comes out at all others. A hub port
 * stands behind a NIC like any netdev, or, with `netdev=`, takes another netdev's guest side: that netdev is then a
 * cable from the hub to its wire. Facts: QEMU net/hub.c, qapi/net.json (NetdevHubPortOptions).
 */
import { ParameterError } from '../../base/errors.ts';
import type { Netdev } from '../netdev.ts';
import { parseNumber, required } from './stream-options.ts';
import type { NetdevOptionStrings } from './stream-options.ts';
import type { NetdevBackend } from './stream.ts';

type Deliver = (frame: Uint8Array) => void;

export class Hub {
  readonly id: number;
  readonly #ports = new Set<Deliver>();

  constructor(id: number) {
    this.id = id;
  }

  get ports(): number {
    return this.#ports.size;
  }

  plug(deliver: Deliver): void {
    this.#ports.add(deliver);
  }

  unplug(deliver: Deliver): void {
    this.#ports.delete(deliver);
  }

  send(from: Deliver, frame: Uint8Array): void {
    for (const port of this.#ports) if (port !== from) port(frame);
  }
}

/** The hubs of one VM, by hubid; one exists from its first port on. */
export class Hubs {
  readonly #hubs = new Map<number, Hub>();

  hub(id: number): Hub {
    let hub = this.#hubs.get(id);
    if (!hub) {
      hub = new Hub(id);
      this.#hubs.set(id, hub);
    }
    return hub;
  }
}

/**
 * Puts `netdev` on the hub of its `hubid`. `findNetdev` resolves `netdev=`. Throws ParameterError.
 */
export function openHubportBackend(
  netdev: Netdev,
  options: NetdevOptionStrings,
  hubs: Hubs,
  findNetdev: (id: string) => Netdev | null,
): NetdevBackend {
  for (const name of Object.keys(options)) {
    if (!['type', 'id', 'hubid', 'netdev'].includes(name))
      throw new ParameterError(`Invalid parameter '${name}'`);
  }
  const hub = hubs.hub(parseNumber('hubid', required(options, 'hubid')));
  const peerId = options['netdev'];
  let peer: Netdev | null = null;
  if (peerId !== undefined) {
    peer = findNetdev(peerId);
    if (!peer) throw new ParameterError(`netdev '${peerId}' not found`);
    if (peer.guest !== null) throw new ParameterError(`netdev '${peerId}' is already in use`);
  }
  const fromHub: Deliver = (frame) => netdev.receiveFromWire(frame);
  hub.plug(fromHub);
  netdev.wire = (frame) => hub.send(fromHub, frame);
  if (peer) {
    // The two are back to back: what one hears from its side the other says on its own.
    const cable = peer;
    netdev.guest = (frame) => cable.sendFromGuest(frame);
    cable.guest = (frame) => netdev.sendFromGuest(frame);
    netdev.peer = cable;
    cable.peer = netdev;
  }
  return {
    close: () => {
      hub.unplug(fromHub);
      netdev.wire = null;
      if (peer) {
        netdev.guest = netdev.peer = null;
        peer.guest = peer.peer = null;
      }
      return Promise.resolve();
    },
  };
}
