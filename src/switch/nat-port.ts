/**
 * A switch port that leads to the outside through user-mode NAT (slirp.ts): gateway, DHCP and DNS for the guests on
 * the switch, and ports of the host forwarded to them.
 *
 * It is a port like any other: its connections belong to the switch's process, so they live on while a guest's port
 * vanishes and comes back with another host process; slirp's TCP resends what the hold (hold.ts) did not keep.
 */
import { isGroupDestination } from './ethernet.ts';
import { loadSlirp } from './libslirp.ts';
import { DEFAULT_NAT_CIDR, parseHostForward, parseNatNetwork } from './nat-options.ts';
import { guestAddressOf, Slirp } from './slirp.ts';
import type { EthernetSwitch } from './switch.ts';
import { ColoError } from '../base/errors.ts';

export interface NatOptions {
  /** `10.0.2.0/24` (the default): gateway .2, name server .3, DHCP from .15. */
  readonly cidr?: string;
  /** `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`. */
  readonly hostForwards?: readonly string[];
  /** The guests reach nothing outside; forwards still work. */
  readonly isRestricted?: boolean;
  /** libslirp's file; default: COLO_LIBSLIRP, then the loader's search. */
  readonly libslirp?: string;
}

/** A forward in force. */
export interface ActiveForward {
  readonly protocol: 'tcp' | 'udp';
  readonly hostAddress: string;
  readonly hostPort: number;
  readonly guestAddress: string;
  readonly guestPort: number;
}

export interface NatPort {
  readonly forwards: readonly ActiveForward[];
  close(): void;
}

/** Attaches a NAT. Throws ParameterError or ColoError, and has then changed nothing. */
export function attachNat(ethernet: EthernetSwitch, options: NatOptions): NatPort {
  const network = parseNatNetwork(options.cidr ?? DEFAULT_NAT_CIDR);
  const wanted = (options.hostForwards ?? []).map((text) => parseHostForward(text, network));
  const library = loadSlirp(options.libslirp);
  const slirp = new Slirp({
    library,
    network,
    isRestricted: options.isRestricted ?? false,
    onFrame: (frame) => port?.receive(frame),
    onTurnEnd: () => ethernet.flush(),
  });
  const port = ethernet.attach({
    name: 'nat',
    send: (frame) => {
      if (isForSlirp(frame)) slirp.input(frame);
      return true;
    },
    // A frame is with slirp at once.
    flush: () => undefined,
  });
  const close = (): void => {
    port?.detach();
    slirp.close();
  };
  try {
    if (!port) throw new ColoError('the switch has as many ports as it may have: none is left for the NAT');
    const forwards = wanted.map((forward): ActiveForward => {
      const { protocol, hostAddress, guestPort } = forward;
      const hostPort = slirp.addHostForward(forward);
      return { protocol, hostAddress, hostPort, guestAddress: guestAddressOf(forward, network), guestPort };
    });
    return { forwards, close };
  } catch (error) {
    close();
    throw error;
  }
}

/**
 * slirp does not look at the destination address: it would route a frame that was flooded from one guest to another.
 * Its own stations are 52:55 followed by their IPv4 address (slirp.c, special_ethaddr).
 */
function isForSlirp(frame: Uint8Array): boolean {
  return isGroupDestination(frame) || (frame[0] === 0x52 && frame[1] === 0x55);
}
