/**
 * Whom the QMP shell speaks to: a monitor's socket, or a VM by its name through the host's daemon. A daemon passes commands
 * on and no events.
 */
import { existsSync } from 'node:fs';
import { parseNodeAddress } from '../../api/address.ts';
import { NodeUnreachableError } from '../../api/errors.ts';
import type { NodeClient } from '../../api/http-client.ts';
import { withDeadline } from '../../base/async.ts';
import { ClosedError, messageOf } from '../../base/errors.ts';
import { QmpClient } from '../../qmp/client.ts';
import type { QmpAddress } from '../../qmp/server.ts';
import type { QmpEvent } from '../../qmp/types.ts';

export interface Wait {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface QmpPeer {
  /** What it says it is, for people. */
  readonly greeting: string;
  readonly hasEvents: boolean;
  /** Throws QmpCommandError, ClosedError, what the daemon says. */
  execute(command: string, args: Readonly<Record<string, unknown>>, wait?: Wait): Promise<unknown>;
  onEvent(listener: (event: QmpEvent) => void): void;
  /** Resolves with the reason when the connection is over. */
  readonly closed: Promise<Error>;
  close(): void;
}

/** The longest that Node's timers can do, 24 days: a person decides how long to wait, and Ctrl-C is at hand. */
const PATIENCE_MS = 2 ** 31 - 1;

/** Null: a VM's name. Throws ParameterError for `unix:` or `HOST:PORT` that is none. */
export function socketOf(target: string): QmpAddress | null {
  if (target.startsWith('unix:') || target.startsWith('tcp:')) {
    return parseNodeAddress(target.replace(/^tcp:/, ''));
  }
  if (existsSync(target) || target.includes('/')) return { path: target };
  return target.includes(':') ? parseNodeAddress(target) : null;
}

/** Throws NodeUnreachableError when nobody is there. */
export async function connectPeer(address: QmpAddress): Promise<QmpPeer> {
  let client: QmpClient;
  try {
    client = await QmpClient.connect(address);
  } catch (error) {
    if (error instanceof ClosedError) throw new NodeUnreachableError(messageOf(error), { cause: error });
    throw error;
  }
  const { qemu, package: flavour } = client.greeting.QMP.version;
  return {
    greeting: `QEMU ${qemu.major}.${qemu.minor}.${qemu.micro}${flavour === '' ? '' : ` (${flavour})`}`,
    hasEvents: true,
    execute: (command, args, wait) => client.execute(command, args, { timeoutMs: PATIENCE_MS, ...wait }),
    onEvent: (listener) => void client.onEvent(listener),
    closed: client.closed,
    close: () => client.close(),
  };
}

export function peerThrough(node: NodeClient, vm: string): QmpPeer {
  return {
    greeting: `${vm}, through ${node.where}; events are not passed on`,
    hasEvents: false,
    execute: (command, args, { timeoutMs = PATIENCE_MS, signal } = {}) =>
      withDeadline(node.qmp(vm, command, args), timeoutMs, command, signal),
    onEvent: () => undefined,
    closed: new Promise(() => undefined),
    close: () => undefined,
  };
}
