/**
 * What `-machine`, `-accel`, `-cpu`, `-m`, `-smp`, `-name`, `-uuid` and their like mean on the embedded engine. Each checks its value when
 * the option is read: what the engine cannot be is an error, what changes nothing a warning. Texts are QEMU 7.2's
 * where it has one.
 */
import { ParameterError } from '../../base/errors.ts';
import type { VmConfig } from './config.ts';
import { parseOptions, parseSize, refuseUnknown } from './keyval.ts';
import type { Options } from './keyval.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** Properties of QEMU's PC machines that no guest of this engine can tell. */
const MACHINE_PROPERTIES = new Set(
  ['type', 'accel', 'vmport', 'dump-guest-core', 'mem-merge', 'acpi', 'hpet', 'smm', 'pit', 'pic'].concat([
    'kernel-irqchip',
    'kernel_irqchip',
    'graphics',
    'nvdimm',
    'usb',
    'max-ram-below-4g',
    'suppress-vmdesc',
  ]),
);

export function setMachine(config: VmConfig, text: string, spelt: string): void {
  const options = parseOptions(text, 'type');
  const { type, accel } = options;
  if (type === 'none') config.machine = 'none';
  else if (type !== undefined) {
    if (!/^(pc|q35|pc-i440fx-[\w.]+|pc-q35-[\w.]+)$/.test(type)) {
      throw new ParameterError(`unsupported machine type '${type}'; use pc or none`);
    }
    config.machine = 'pc';
  }
  for (const name of Object.keys(options)) {
    if (!MACHINE_PROPERTIES.has(name))
      throw new ParameterError(`Property '${type ?? 'pc'}-machine.${name}' not found`);
  }
  if (options['usb'] === 'on')
    config.warnings.push('usb=on: the v86 engine has no USB, the guest runs without it');
  if (accel !== undefined) setAccel(config, accel, spelt);
}

/** `spelt`: the option as typed. */
export function setAccel(config: VmConfig, text: string, spelt: string): void {
  const options = parseOptions(text, 'accel');
  const names = options['accel'] ?? '';
  const known = names.split(':').find((name) => name === 'v86' || name === 'kvm' || name === 'tcg');
  if (known === undefined) throw new ParameterError(`invalid accelerator ${names}`);
  for (const name of Object.keys(options)) {
    if (name !== 'accel' && !['thread', 'kernel-irqchip', 'tb-size', 'one-insn-per-tb'].includes(name)) {
      throw new ParameterError(`Property '${known}-accel.${name}' not found`);
    }
  }
  // The first one decides, as in a list; those of QEMU's that come first are qemu-options.ts's.
  if (config.accelOption !== '') return;
  config.accel = known;
  config.accelOption = spelt;
}

/** Models that a guest of this engine finds no less than it was promised. */
const MODEST_CPUS = new Set(['486', 'pentium', 'base']);

export function setCpu(config: VmConfig, text: string): void {
  const model = text.split(',', 1)[0] ?? '';
  if (MODEST_CPUS.has(model)) return;
  config.warnings.push(
    `${text}: the v86 engine has one CPU model, a 32-bit x86 with SSE2; the guest sees that`,
  );
}

export function setMemory(config: VmConfig, text: string): void {
  const options = parseOptions(text, 'size');
  refuseUnknown(options, ['size', 'slots', 'maxmem']);
  if (options['slots'] !== undefined || options['maxmem'] !== undefined) {
    throw new ParameterError('the v86 engine has no memory hotplug; leave slots and maxmem out');
  }
  const bytes = parseSize(options['size'] ?? '', MIB);
  if (bytes === null) {
    throw new ParameterError(
      "Parameter 'size' expects a non-negative number below 2^64, with k, M or G behind it",
    );
  }
  if (bytes < MIB || bytes > 2047 * MIB || bytes % (128 * KIB) !== 0) {
    throw new ParameterError('the v86 engine takes a multiple of 128 KiB from 1 MiB to 2047 MiB of memory');
  }
  config.memoryBytes = bytes;
}

const TOPOLOGY = ['cpus', 'sockets', 'dies', 'clusters', 'cores', 'threads', 'maxcpus'];

export function setCpus(_config: VmConfig, text: string): void {
  for (const [name, count] of Object.entries(parseOptions(text, 'cpus'))) {
    if (!TOPOLOGY.includes(name)) throw new ParameterError(`Parameter 'smp.${name}' is unexpected`);
    if (!/^\d+$/.test(count)) throw new ParameterError(`Parameter 'smp.${name}' expects integer`);
    if (Number(count) !== 1) throw new ParameterError('the v86 engine has one CPU');
  }
}

export function setName(config: VmConfig, text: string): void {
  const options = parseOptions(text, 'guest');
  refuseUnknown(options, ['guest', 'process', 'debug-threads']);
  config.name = options['guest'] ?? null;
}

export function setUuid(config: VmConfig, text: string): void {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) {
    throw new ParameterError('failed to parse UUID string: wrong format');
  }
  config.uuid = text.toLowerCase();
}

/** `-action shutdown=pause,reboot=shutdown`: the newer spelling of -no-shutdown and -no-reboot. */
export function setAction(config: VmConfig, text: string): void {
  const options = parseOptions(text);
  refuseUnknown(options, ['shutdown', 'reboot', 'panic', 'watchdog']);
  const { shutdown, reboot, panic } = options;
  if (shutdown !== undefined)
    config.noShutdown = choice(options, 'shutdown', ['pause', 'poweroff']) === 'pause';
  if (reboot !== undefined) config.noReboot = choice(options, 'reboot', ['shutdown', 'reset']) === 'shutdown';
  if (panic !== undefined) config.panicAction = choice(options, 'panic', PANIC_ACTIONS);
}

const PANIC_ACTIONS = ['pause', 'shutdown', 'exit-failure', 'none'] as const;

function choice<T extends string>(options: Options, name: string, values: readonly T[]): T {
  const given = options[name] ?? '';
  const known = values.find((value) => value === given);
  if (known === undefined) throw new ParameterError(`Parameter '${name}' does not accept value '${given}'`);
  return known;
}

const DISPLAYS = [
  'none',
  'gtk',
  'sdl',
  'curses',
  'vnc',
  'egl-headless',
  'spice-app',
  'dbus',
  'cocoa',
  'default',
];

export function setDisplay(config: VmConfig, text: string): void {
  const options = parseOptions(text, 'type');
  const type = choice(options, 'type', DISPLAYS);
  if (type === 'none' || type === 'default') return;
  config.warnings.push(`${text}: the v86 engine shows no display; use the serial console`);
}

const VGA_CARDS = ['none', 'std', 'cirrus', 'vmware', 'qxl', 'virtio', 'tcx', 'cg3', 'xenfb'];

export function setVga(config: VmConfig, text: string): void {
  if (!VGA_CARDS.includes(text)) throw new ParameterError(`unknown vga type: ${text}`);
  if (text !== 'none' && text !== 'std')
    config.warnings.push(`${text}: the guest sees a standard VGA instead`);
}

export function setRtc(config: VmConfig, text: string): void {
  const options = parseOptions(text);
  refuseUnknown(options, ['base', 'clock', 'driftfix']);
  const { base = 'utc', clock = 'host' } = options;
  if (base !== 'utc' || clock !== 'host') {
    config.warnings.push(
      `${text}: the guest's clock starts from the host's, in UTC, and keeps to the pair's own`,
    );
  }
}

const BOOT = ['order', 'once', 'menu', 'splash', 'splash-time', 'reboot-timeout', 'strict'];

export function setBoot(config: VmConfig, text: string): void {
  const options = parseOptions(text, 'order');
  for (const name of Object.keys(options)) {
    if (!BOOT.includes(name)) throw new ParameterError(`Parameter 'boot.${name}' is unexpected`);
  }
  const { order = 'c', once = 'c' } = options;
  if (!order.startsWith('c') || !once.startsWith('c')) {
    config.warnings.push(`${text}: the v86 engine boots from the first disk`);
  }
}

export function setSandbox(config: VmConfig, text: string): void {
  const enable = parseOptions(text, 'enable')['enable'];
  if (enable !== 'on' && enable !== 'off')
    throw new ParameterError("Parameter 'enable' expects 'on' or 'off'");
  if (enable === 'on')
    config.warnings.push(`${text}: there is no seccomp filter; let a service manager confine it`);
}

export function setOvercommit(config: VmConfig, text: string): void {
  const options = parseOptions(text);
  refuseUnknown(options, ['mem-lock', 'cpu-pm']);
  if (Object.values(options).includes('on'))
    config.warnings.push(`${text}: not supported, memory is not locked`);
}
