/**
 * `startSwitch`: a whole switch put together from its parts, as `colo switch` runs it: an Ethernet switch with stream
 * ports (QEMU's `-netdev stream`), and, if wanted, a NAT port. It belongs to nobody's VM and outlives all of them.
 */
import { parseLinkAddress } from './address.ts';
import { DEFAULT_HOLD_LIMITS, type HoldLimits } from './hold.ts';
import { connectTo, listenAt, type Link } from './links.ts';
import { attachNat, type ActiveForward, type NatOptions, type NatPort } from './nat-port.ts';
import { EthernetSwitch, type SwitchStats } from './switch.ts';
import { ParameterError } from '../base/errors.ts';

export type { HoldLimits } from './hold.ts';
export type { ActiveForward, NatOptions } from './nat-port.ts';
export type { PortCounters, SwitchStats } from './switch.ts';

export interface StartSwitchOptions {
  /** Where to accept ports: `unix:PATH`, `tcp:HOST:PORT`, `tcp:PORT` (loopback). */
  readonly listen?: readonly string[];
  /** Peers to connect to, again and again. */
  readonly connect?: readonly string[];
  readonly nat?: NatOptions;
  /** Keep the frames for a port that died until its address is heard elsewhere (hold.ts). Default: true. */
  readonly hold?: boolean | Partial<HoldLimits>;
}

export interface RunningSwitch {
  /** The listening addresses, in the order asked for; a port 0 is replaced by the port it got. */
  readonly addresses: string[];
  readonly forwards: readonly ActiveForward[];
  stats(): SwitchStats;
  /** Disconnects all ports and frees everything. Idempotent. */
  close(): Promise<void>;
}

/** Resolves when every listener listens and every forward is in force. Throws ParameterError or ColoError. */
export async function startSwitch(options: StartSwitchOptions): Promise<RunningSwitch> {
  const listen = (options.listen ?? []).map((text) => parseLinkAddress(text, 'listen'));
  const connect = (options.connect ?? []).map((text) => parseLinkAddress(text, 'connect'));
  if (listen.length + connect.length === 0) {
    throw new ParameterError(
      'a switch without ports: give at least one address to listen at or to connect to',
    );
  }
  const ethernet = new EthernetSwitch({ hold: holdLimits(options.hold ?? true) });
  const links: Link[] = [];
  let nat: NatPort | null = null;
  let closing: Promise<void> | null = null;
  const close = (): Promise<void> =>
    (closing ??= (async () => {
      ethernet.close();
      await Promise.all(links.map((link) => link.close()));
      nat?.close();
    })());
  try {
    // The NAT first: nobody connects to a switch that then cannot start.
    if (options.nat) nat = attachNat(ethernet, options.nat);
    for (const address of listen) links.push(await listenAt(ethernet, address));
  } catch (error) {
    await close();
    throw error;
  }
  const addresses = links.map((link) => link.address);
  for (const address of connect) links.push(connectTo(ethernet, address));
  return { addresses, forwards: nat?.forwards ?? [], stats: () => ethernet.stats(), close };
}

function holdLimits(hold: boolean | Partial<HoldLimits>): HoldLimits | false {
  if (hold === false) return false;
  return hold === true ? DEFAULT_HOLD_LIMITS : { ...DEFAULT_HOLD_LIMITS, ...hold };
}
