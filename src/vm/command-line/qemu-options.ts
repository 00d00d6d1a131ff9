/**
 * The options that mean something else when a stock QEMU executes the guest (-accel kvm or tcg): most go on to it as
 * they are. What is not in this table is as on the embedded engine (parse.ts).
 */
import { ParameterError } from '../../base/errors.ts';
import { escapeOption } from '../../engine/qemu/index.ts';
import type { VmConfig } from './config.ts';
import { parseOptions, parseSize } from './keyval.ts';

interface QemuOption {
  readonly takesValue: boolean;
  apply(config: VmConfig, value: string, spelt: string): void;
}

const MIB = 2 ** 20;

/** Goes on as it is. `isSeen`: a guest can tell. */
function pass(name: string, takesValue: boolean, isSeen: boolean): [string, QemuOption] {
  const apply = (config: VmConfig, value: string): void => {
    const args = takesValue ? [`-${name}`, value] : [`-${name}`];
    config.qemu.args.push(...args);
    if (isSeen) config.qemu.identity.push(args.join(' '));
  };
  return [name, { takesValue, apply }];
}

export const QEMU_OPTIONS: ReadonlyMap<string, QemuOption> = new Map<string, QemuOption>([
  pass('cpu', true, true),
  pass('smp', true, true),
  pass('vga', true, true),
  pass('usb', false, true),
  pass('usbdevice', true, true),
  pass('rtc', true, true),
  pass('bios', true, true),
  pass('global', true, true),
  pass('kernel', true, true),
  pass('initrd', true, true),
  pass('append', true, true),
  pass('boot', true, true),
  pass('no-acpi', false, true),
  pass('no-hpet', false, true),
  pass('vnc', true, false),
  pass('k', true, false),
  pass('L', true, false),
  pass('msg', true, false),
  ['qemu', { takesValue: true, apply: (config, value) => void (config.qemu.binary = value) }],
  ['machine', { takesValue: true, apply: setMachine }],
  ['M', { takesValue: true, apply: setMachine }],
  ['accel', { takesValue: true, apply: addAccel }],
  ['enable-kvm', { takesValue: false, apply: (config, _value, spelt) => addAccel(config, 'kvm', spelt) }],
  ['m', { takesValue: true, apply: setMemory }],
]);

/** Whether an accelerator is asked for that only a QEMU has. */
export function wantsQemu(args: readonly string[]): boolean {
  return args.some((arg, at) => {
    const name = arg.replace(/^--?/, '');
    const value = args[at + 1] ?? '';
    if (arg === name) return false;
    if (name === 'enable-kvm') return true;
    if (name === 'accel') return isQemus(value.split(',', 1)[0] ?? '');
    return (name === 'machine' || name === 'M') && isQemus(/(?:^|,)accel=([^,]*)/.exec(value)?.[1] ?? '');
  });
}

function isQemus(accel: string): boolean {
  return accel.split(':').some((name) => name === 'kvm' || name === 'tcg');
}

function setMachine(config: VmConfig, text: string, spelt: string): void {
  const { accel, ...rest } = parseOptions(text, 'type');
  if (rest['type'] === 'none') throw new ParameterError('machine type none runs without an accelerator');
  if (accel !== undefined) addAccel(config, accel, spelt);
  const parts = Object.entries(rest).map(([key, value]) => (key === 'type' ? value : `${key}=${value}`));
  if (parts.length > 0) config.qemu.machine = parts.join(',');
}

/** As in QEMU each -accel is one more to try, and a list with colons is tried in its order; what it has not is left out. */
function addAccel(config: VmConfig, text: string, spelt: string): void {
  const { accel = '', ...properties } = parseOptions(text, 'accel');
  const names = accel.split(':').filter(isQemus);
  if (names.length === 0) throw new ParameterError(`invalid accelerator ${accel}`);
  const behind = Object.entries(properties).map(([key, value]) => `,${key}=${escapeOption(value)}`);
  if (names.length > 1 && behind.length > 0) {
    throw new ParameterError('properties do not go with a list; give each accelerator an -accel of its own');
  }
  if (config.accel === 'v86') {
    config.accel = names.join(':');
    config.accelOption = spelt;
  } else config.accel += `:${names.join(':')}`;
  config.qemu.args.push(...names.flatMap((name) => ['-accel', name + behind.join('')]));
}

function setMemory(config: VmConfig, text: string): void {
  const bytes = parseSize(parseOptions(text, 'size')['size'] ?? '', MIB);
  if (bytes === null || bytes < MIB || bytes % MIB !== 0) {
    throw new ParameterError("Parameter 'size' expects whole MiB");
  }
  config.memoryBytes = bytes;
}
