/**
 * `-netdev tap`: a netdev's wire through a Linux TAP device, and `-netdev bridge`'s job when a bridge is named. Options
 * of QEMU's that are understood: ifname, script and downscript (`no`, or a program that is run with the device's name;
 * QEMU's default /etc/qemu-ifup is not run unasked), vhost=off, vnet_hdr (which ends at the device: tap-device.ts), helper
 * and br: as root no helper is needed, the device is made and put on the bridge br (default br0) with ip(8). Facts: QEMU qapi/net.json (NetdevTapOptions), net/tap.c.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ColoError, ParameterError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { Netdev } from '../netdev.ts';
import { parseBool } from './stream-options.ts';
import type { NetdevOptionStrings } from './stream-options.ts';
import type { NetdevBackend } from './stream.ts';
import { TapDevice } from './tap-device.ts';

const run = promisify(execFile);
const PROGRAM_DEADLINE_MS = 10_000;
const DEFAULT_BRIDGE = 'br0';
const KNOWN = ['type', 'id', 'ifname', 'script', 'downscript', 'vhost', 'vnet_hdr', 'helper', 'br'];

export interface TapBackend extends NetdevBackend {
  readonly device: TapDevice;
}

/** Throws ParameterError for options that cannot be served, ColoError when the device cannot be had. */
export async function openTapBackend(netdev: Netdev, options: NetdevOptionStrings): Promise<TapBackend> {
  for (const name of Object.keys(options)) {
    if (!KNOWN.includes(name)) throw new ParameterError(`Invalid parameter '${name}'`);
  }
  if (options['vhost'] !== undefined && parseBool('vhost', options['vhost'])) {
    throw new ParameterError('vhost=on is not supported: its packets would pass by the filters');
  }
  const vnetHeader = parseBool('vnet_hdr', options['vnet_hdr'] ?? 'off');
  netdev.hasVnetWire = vnetHeader && netdev.vnetHeaderBytes > 0;
  const device = new TapDevice({
    name: options['ifname'] ?? '',
    vnetHeader,
    passesHeader: netdev.hasVnetWire,
    onFrame: (frame) => netdev.receiveFromWire(frame),
  });
  try {
    if (options['helper'] !== undefined || options['br'] !== undefined) {
      await program('ip', [
        'link',
        'set',
        'dev',
        device.name,
        'master',
        options['br'] ?? DEFAULT_BRIDGE,
        'up',
      ]);
    }
    await script(options['script'], device.name);
  } catch (cause) {
    await device.close();
    throw cause;
  }
  netdev.wire = (frame) => device.send(frame);
  let isClosed = false;
  return {
    device,
    close: async () => {
      if (isClosed) return;
      isClosed = true;
      netdev.wire = null;
      try {
        await script(options['downscript'], device.name);
      } catch (cause) {
        loggerFor('netdev').warn(`netdev '${netdev.id}': ${messageOf(cause)}`);
      }
      await device.close();
    },
  };
}

async function script(file: string | undefined, device: string): Promise<void> {
  if (file !== undefined && file !== 'no' && file !== '') await program(file, [device]);
}

async function program(file: string, args: readonly string[]): Promise<void> {
  try {
    await run(file, args, { timeout: PROGRAM_DEADLINE_MS });
  } catch (cause) {
    throw new ColoError(`${file} ${args.join(' ')} failed: ${messageOf(cause)}`, { cause });
  }
}
