/** Opens the VM's network backends (`-netdev`) and says which NIC sits on which. */
import { ParameterError, messageOf } from '../base/errors.ts';
import { Netdev } from '../net/netdev.ts';
import { VNET_HEADER_BYTES } from '../net/offload.ts';
import { Hubs, openHubportBackend } from '../net/netdevs/hubport.ts';
import { parseBool } from '../net/netdevs/stream-options.ts';
import { openStreamBackend } from '../net/netdevs/stream.ts';
import { openTapBackend } from '../net/netdevs/tap.ts';
import type { Options } from './command-line/keyval.ts';
import { originOf } from './command-line/origin.ts';

type Emit = (event: string, data?: Record<string, unknown>) => void;

export interface OpenNetdevs {
  readonly netdevs: ReadonlyMap<string, Netdev>;
  /** NIC id → its netdev. */
  readonly ofNic: ReadonlyMap<string, Netdev>;
  close(): Promise<void>;
}

/** A guest's NIC as its netdev sees it. */
export interface NicPlug {
  readonly id: string;
  readonly netdev: string;
  /** The option as typed. */
  readonly origin: string;
  /** It can have a virtio-net header in front of its frames. */
  readonly isVirtio?: boolean;
}

/** What carries a netdev's wire. */
export interface NetdevBackend {
  close(): Promise<void>;
}

/** Throws ParameterError naming the option; what was opened before is closed again. */
export async function openNetdevs(
  all: readonly Options[],
  nics: readonly NicPlug[],
  emit: Emit,
): Promise<OpenNetdevs> {
  const netdevs = new Map<string, Netdev>();
  const backends: NetdevBackend[] = [];
  const hubs = new Hubs();
  const close = async (): Promise<void> => {
    for (const backend of backends.splice(0).reverse()) await backend.close();
  };
  try {
    for (const options of all) {
      const { type, id } = options;
      try {
        if (type === undefined) throw new ParameterError("Parameter 'type' is missing");
        if (id === undefined) throw new ParameterError("Parameter 'id' is missing");
        if (netdevs.has(id)) throw new ParameterError(`Duplicate ID '${id}' for netdev`);
        const hasVnetHeader = nics.some(({ netdev, isVirtio }) => netdev === id && isVirtio === true);
        const { netdev, rest } = makeNetdev(id, type, options, hasVnetHeader);
        backends.push(await openBackend(type, netdev, rest, { emit, hubs, netdevs }));
        netdevs.set(id, netdev);
      } catch (cause) {
        const origin = originOf(options, `-netdev ${type ?? ''},id=${id ?? ''}`);
        throw new ParameterError(`${origin}: ${messageOf(cause)}`, { cause });
      }
    }
    const ofNic = new Map<string, Netdev>();
    for (const nic of nics) {
      const netdev = netdevs.get(nic.netdev);
      if (!netdev)
        throw new ParameterError(`${nic.origin}: Property 'netdev' can't find value '${nic.netdev}'`);
      // A NIC, or a hub port with netdev=, has its other end already.
      if (netdev.guest !== null || [...ofNic.values()].includes(netdev)) {
        throw new ParameterError(`${nic.origin}: netdev '${nic.netdev}' is already in use by another device`);
      }
      ofNic.set(nic.id, netdev);
    }
    return { netdevs, ofNic, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * `vnet_hdr=on` is QEMU's option of a TAP, and has a meaning for the others here too: frames between a virtio NIC and the
 * filters have the header, whatever the wire has. As in QEMU nobody else's have one.
 */
function makeNetdev(
  id: string,
  type: string,
  options: Options,
  isVirtio: boolean,
): { netdev: Netdev; rest: Options } {
  const { vnet_hdr: wanted, ...rest } = options;
  const isWanted = wanted !== undefined && parseBool('vnet_hdr', wanted);
  const netdev = new Netdev({ id, vnetHeaderBytes: isWanted && isVirtio ? VNET_HEADER_BYTES : 0 });
  return { netdev, rest: type === 'stream' || type === 'socket' ? rest : options };
}

interface Surroundings {
  readonly emit: Emit;
  readonly hubs: Hubs;
  /** Those opened so far. */
  readonly netdevs: ReadonlyMap<string, Netdev>;
}

/** QEMU's types that are not served, each with the way out. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  user: "use 'colo switch --nat' and -netdev stream; the NAT must outlive the VM",
  bridge: 'use -netdev tap,br=BRIDGE',
  dgram: 'use -netdev stream',
  vde: 'use -netdev stream',
  l2tpv3: 'use -netdev stream or tap',
  'vhost-user': 'its packets would pass by the filters; use -netdev stream or tap',
  'vhost-vdpa': 'its packets would pass by the filters; use -netdev stream or tap',
};

async function openBackend(
  type: string,
  netdev: Netdev,
  options: Options,
  { emit, hubs, netdevs }: Surroundings,
): Promise<NetdevBackend> {
  switch (type) {
    case 'stream':
    case 'socket':
      return openStreamBackend(netdev, options, emit);
    case 'tap':
      return openTapBackend(netdev, options);
    case 'hubport':
      return openHubportBackend(netdev, options, hubs, (id) => netdevs.get(id) ?? null);
    default: {
      const instead = Object.hasOwn(ELSEWHERE, type) ? ELSEWHERE[type] : undefined;
      if (instead !== undefined) throw new ParameterError(`type '${type}' is not supported: ${instead}`);
      throw new ParameterError(`Parameter 'type' does not accept value '${type}'`);
    }
  }
}
