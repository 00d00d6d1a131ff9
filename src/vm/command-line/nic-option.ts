/**
 * `-nic` and `-net nic`, the short forms of -netdev and -device, when a QEMU executes the guest: they become the long
 * forms, as the netdev is ours and the device QEMU's (QEMU invocation, "Network options"). Hubs (-net without netdev=) are
 * not served.
 */
import { ParameterError } from '../../base/errors.ts';
import type { VmConfig } from './config.ts';
import { parseEither, parseOptions } from './keyval.ts';
import { addNamed } from './named-options.ts';
import { noteOrigin } from './origin.ts';

/** QEMU's short names. */
const MODELS: Readonly<Record<string, string>> = { virtio: 'virtio-net-pci' };

/** The card that the machine would have: known once the whole command line has been read. */
export const DEFAULT_NIC = '';

/** `-nic TYPE,model=…,mac=…` and what the netdev takes. */
export function addNic(config: VmConfig, text: string, spelt: string): void {
  if (text === 'none') return;
  const { model, mac, id = freeId(config), ...netdev } = parseEither(text, 'type');
  addNamed('netdev', config.netdevs, { ...netdev, id }, ['type', 'id']);
  addDevice(config, model, { netdev: id, ...(mac === undefined ? {} : { mac }) }, spelt);
}

/** `-net none`, `-net nic,netdev=ID,model=…,macaddr=…`. */
export function addNet(config: VmConfig, text: string, spelt: string): void {
  if (text === 'none') return;
  const { type, model, macaddr, netdev, addr } = parseOptions(text, 'type');
  if (type !== 'nic' || netdev === undefined) throw new ParameterError('use -netdev and -device, or -nic');
  const options = { netdev, ...(macaddr === undefined ? {} : { mac: macaddr }) };
  addDevice(config, model, addr === undefined ? options : { ...options, addr }, spelt);
}

function addDevice(
  config: VmConfig,
  model: string | undefined,
  options: Record<string, string>,
  spelt: string,
): void {
  const driver = model === undefined ? DEFAULT_NIC : (MODELS[model] ?? model);
  const device = { driver, options };
  noteOrigin(device, spelt);
  config.devices.push(device);
}

function freeId(config: VmConfig): string {
  for (let at = 0; ; at++) {
    const id = `nic${at}`;
    if (!config.netdevs.some((netdev) => netdev['id'] === id)) return id;
  }
}
