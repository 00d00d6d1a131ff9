/** Opens the VM's network backends (`-netdev`) and says which NIC sits on which. */
import { ParameterError, messageOf } from '../base/errors.ts';
import { Netdev } from '../net/netdev.ts';
import { openStreamBackend } from '../net/netdevs/stream.ts';
import type { Options } from './command-line/keyval.ts';
import type { NicDevice } from './devices.ts';

type Emit = (event: string, data?: Record<string, unknown>) => void;

export interface OpenNetdevs {
  readonly netdevs: ReadonlyMap<string, Netdev>;
  /** NIC id → its netdev. */
  readonly ofNic: ReadonlyMap<string, Netdev>;
  close(): Promise<void>;
}

/** What carries a netdev's wire. */
export interface NetdevBackend {
  close(): Promise<void>;
}

/** Throws ParameterError naming the option; what was opened before is closed again. */
export async function openNetdevs(
  all: readonly Options[],
  nics: readonly NicDevice[],
  emit: Emit,
): Promise<OpenNetdevs> {
  const netdevs = new Map<string, Netdev>();
  const backends: NetdevBackend[] = [];
  const close = async (): Promise<void> => {
    for (const backend of backends.splice(0)) await backend.close();
  };
  try {
    for (const options of all) {
      const { type, id } = options;
      try {
        if (type === undefined) throw new ParameterError("Parameter 'type' is missing");
        if (id === undefined) throw new ParameterError("Parameter 'id' is missing");
        if (netdevs.has(id)) throw new ParameterError(`Duplicate ID '${id}' for netdev`);
        const netdev = new Netdev({ id });
        backends.push(await openBackend(type, netdev, options, emit));
        netdevs.set(id, netdev);
      } catch (cause) {
        throw new ParameterError(`-netdev ${type ?? ''},id=${id ?? ''}: ${messageOf(cause)}`, { cause });
      }
    }
    const ofNic = new Map<string, Netdev>();
    for (const nic of nics) {
      const netdev = netdevs.get(nic.netdev);
      if (!netdev) throw new ParameterError(`Property 'netdev' can't find value '${nic.netdev}'`);
      if ([...ofNic.values()].includes(netdev)) {
        throw new ParameterError(`netdev '${nic.netdev}' is already in use by another device`);
      }
      ofNic.set(nic.id, netdev);
    }
    return { netdevs, ofNic, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function openBackend(
  type: string,
  netdev: Netdev,
  options: Options,
  emit: Emit,
): Promise<NetdevBackend> {
  switch (type) {
    case 'stream':
    case 'socket':
      return openStreamBackend(netdev, options, emit);
    case 'user':
      throw new ParameterError("use 'colo switch --nat' and -netdev stream; the NAT must outlive the VM");
    default:
      throw new ParameterError(`Parameter 'type' does not accept value '${type}'`);
  }
}
