/**
 * The options when a stock QEMU executes the guest (-accel kvm or tcg): what is ours is read as on the embedded engine
 * (SHARED, parse.ts), most go on to QEMU as they are, and what would break a pair is refused (qemu-refused.ts).
 * Names and arity: QEMU's invocation document, 7.2 and newer. What a value may be is QEMU's to say.
 */
import { ParameterError } from '../../base/errors.ts';
import { escapeOption } from '../../engine/qemu/index.ts';
import type { VmConfig } from './config.ts';
import { parseEither, parseOptions, parseSize, refuseUnknown } from './keyval.ts';
import type { Options } from './keyval.ts';
import { setAction, setName, setUuid } from './machine-options.ts';
import { addNamed, checkId } from './named-options.ts';
import { addNet, addNic } from './nic-option.ts';
import { checkDisplay, checkMachine, checkObject, checkRunWith, isOurObject } from './qemu-refused.ts';

/** `spelt` is the option as typed. */
type Apply = (config: VmConfig, value: string, spelt: string) => void;

interface QemuOption {
  readonly takesValue: boolean;
  readonly apply: Apply;
}

const MIB = 2 ** 20;

const value = (apply: Apply): QemuOption => ({ takesValue: true, apply });
const flag = (apply: (config: VmConfig) => void): QemuOption => ({ takesValue: false, apply });

/** Goes on as it is; a guest cannot tell. */
const unseen = (name: string, takesValue = true): [string, QemuOption] => [
  name,
  { takesValue, apply: (config, text) => pass(config, name, takesValue ? text : null) },
];
/** Goes on as it is, and both sides of a pair must have it alike. */
const seen = (name: string, takesValue = true): [string, QemuOption] => [
  name,
  {
    takesValue,
    apply: (config, text) => {
      pass(config, name, takesValue ? text : null);
      config.qemu.identity.push(takesValue ? `-${name} ${text}` : `-${name}`);
    },
  },
];
/** Goes on as it is; both sides must have the same content in the file, wherever it lies. */
const file = (name: string): [string, QemuOption] => [
  name,
  value((config, path) => {
    pass(config, name, path);
    config.qemu.files.push({ option: `-${name}`, path });
  }),
];
/** A file's content among other properties. */
const withFile = (name: string, key: string): [string, QemuOption] => [
  name,
  value((config, text) => {
    pass(config, name, text);
    const { [key]: path, ...rest } = parseOptions(text, name === 'fw_cfg' ? 'name' : undefined);
    const option = [`-${name}`, ...Object.entries(rest).map(([word, given]) => `${word}=${given}`)].join(' ');
    if (path === undefined) config.qemu.identity.push(option);
    else config.qemu.files.push({ option, path });
  }),
];
const drive = (options: Options): QemuOption =>
  value((config, path) => config.drives.push({ ...options, file: path }));

export const QEMU_OPTIONS: ReadonlyMap<string, QemuOption> = new Map<string, QemuOption>([
  ['qemu', value((config, binary) => (config.qemu.binary = binary))],
  ['machine', value(setMachine)],
  ['M', value(setMachine)],
  ['accel', value(addAccel)],
  ['enable-kvm', { takesValue: false, apply: (config, _value, spelt) => addAccel(config, 'kvm', spelt) }],
  ['m', value(setMemory)],
  ['name', value(setNames)],
  ['uuid', value(passUuid)],
  ['nodefaults', flag(dropDefaults)],
  ['action', value(passAction)],
  ['object', value(addObject)],
  ['chardev', value(addChardev)],
  ['nic', value(addNic)],
  ['net', value(addNet)],
  ['display', value(setDisplay)],
  ['vnc', value((config, text) => (config.vnc = text))],
  ['hdc', drive({ if: 'ide', index: '2' })],
  ['hdd', drive({ if: 'ide', index: '3' })],
  ['cdrom', drive({ if: 'ide', index: '2', media: 'cdrom' })],
  ['fda', drive({ if: 'floppy', index: '0' })],
  ['fdb', drive({ if: 'floppy', index: '1' })],
  ['pflash', drive({ if: 'pflash' })],
  seen('cpu'),
  seen('smp'),
  seen('vga'),
  seen('usb', false),
  seen('usbdevice'),
  seen('rtc'),
  seen('icount'),
  seen('global'),
  seen('boot'),
  seen('append'),
  seen('audio'),
  seen('no-acpi', false),
  seen('no-hpet', false),
  seen('no-fd-bootchk', false),
  seen('win2k-hack', false),
  seen('overcommit'),
  file('bios'),
  file('kernel'),
  file('initrd'),
  file('dtb'),
  file('shim'),
  file('option-rom'),
  withFile('smbios', 'file'),
  withFile('acpitable', 'file'),
  withFile('fw_cfg', 'file'),
  unseen('watchdog-action'),
  unseen('audiodev'),
  unseen('k'),
  unseen('L'),
  unseen('msg'),
  unseen('compat'),
  unseen('seed'),
  unseen('sandbox'),
  unseen('d'),
  unseen('D'),
  unseen('dfilter'),
  unseen('trace'),
  unseen('plugin'),
  unseen('singlestep', false),
  unseen('perfmap', false),
  unseen('jitdump', false),
  unseen('enable-sync-profile', false),
  unseen('async-teardown', false),
  ['run-with', value(passRunWith)],
  // The engine always asks for it.
  ['only-migratable', flag(() => undefined)],
]);

/** Options that mean the same on both engines: their entries are those of parse.ts. */
export const SHARED: ReadonlySet<string> = new Set(
  ['qmp', 'qmp-pretty', 'mon', 'monitor', 'serial', 'nographic', 'no-user-config', 'nodefconfig'].concat(
    ['netdev', 'drive', 'blockdev', 'hda', 'hdb', 'device', 'incoming', 'S', 'no-shutdown', 'no-reboot'],
    ['pidfile', 'daemonize'],
  ),
);

function pass(config: VmConfig, name: string, text: string | null): void {
  config.qemu.args.push(...(text === null ? [`-${name}`] : [`-${name}`, text]));
}

/** Whether the accelerator asked for first is one that only a QEMU has. */
export function wantsQemu(args: readonly string[]): boolean {
  const first = args.flatMap((arg, at) => {
    const name = arg.replace(/^--?/, '');
    const text = args[at + 1] ?? '';
    if (arg === name) return [];
    if (name === 'enable-kvm') return ['kvm'];
    if (name === 'accel')
      return (
        text
          .replace(/^accel=/, '')
          .split(',', 1)[0]
          ?.split(':') ?? []
      );
    if (name !== 'machine' && name !== 'M') return [];
    return /(?:^|,)accel=([^,]*)/.exec(text)?.[1]?.split(':') ?? [];
  });
  return isQemus(first.find((name) => name === 'v86' || isQemus(name)) ?? '');
}

function isQemus(name: string): boolean {
  return name === 'kvm' || name === 'tcg';
}

/** As in QEMU several -machine options add up. */
function setMachine(config: VmConfig, text: string, spelt: string): void {
  const { accel, ...given } = parseEither(text, 'type');
  checkMachine(given);
  if (accel !== undefined) addAccel(config, accel, spelt);
  const { type = 'pc', ...properties } = { ...parseOptions(config.qemu.machine ?? '', 'type'), ...given };
  config.qemu.machine = [escapeOption(type), ...pairs(properties)].join(',');
}

/** As in QEMU each -accel is one more to try, and a list with colons is tried in its order; what it has not is left out. */
function addAccel(config: VmConfig, text: string, spelt: string): void {
  const { accel = '', ...properties } = parseOptions(text, 'accel');
  const names = accel.split(':').filter(isQemus);
  if (names.length === 0) throw new ParameterError(`invalid accelerator ${accel}`);
  const behind = pairs(properties);
  if (names.length > 1 && behind.length > 0) {
    throw new ParameterError('properties do not go with a list; give each accelerator an -accel of its own');
  }
  config.qemu.accelerators.push(...names.map((name) => ({ name, text: [name, ...behind].join(',') })));
  config.accel = config.qemu.accelerators.map(({ name }) => name).join(':');
  if (config.accelOption === '') config.accelOption = spelt;
}

function pairs(options: Options): string[] {
  return Object.entries(options).map(([key, given]) => `${key}=${escapeOption(given)}`);
}

function setMemory(config: VmConfig, text: string): void {
  const options = parseOptions(text, 'size');
  refuseUnknown(options, ['size', 'slots', 'maxmem']);
  if (options['slots'] !== undefined || options['maxmem'] !== undefined) {
    throw new ParameterError(
      'memory that is plugged in later is not protected; give all of it with -m, without slots and maxmem',
    );
  }
  const bytes = parseSize(options['size'] ?? '', MIB);
  if (bytes === null || bytes < MIB || bytes % MIB !== 0) {
    throw new ParameterError("Parameter 'size' expects whole MiB");
  }
  config.memoryBytes = bytes;
}

function setNames(config: VmConfig, text: string): void {
  setName(config, text);
  passRest(config, 'name', parseOptions(text, 'guest'), ['guest']);
}

function passRest(config: VmConfig, name: string, options: Options, ours: readonly string[]): void {
  const rest = Object.entries(options).filter(([key]) => !ours.includes(key));
  if (rest.length > 0) pass(config, name, pairs(Object.fromEntries(rest)).join(','));
}

function passUuid(config: VmConfig, text: string): void {
  setUuid(config, text);
  pass(config, 'uuid', text);
  config.qemu.identity.push(`-uuid ${text.toLowerCase()}`);
}

function dropDefaults(config: VmConfig): void {
  config.noDefaults = true;
  pass(config, 'nodefaults', null);
  config.qemu.identity.push('-nodefaults');
}

/** What ends the VM is ours; what QEMU does by itself is QEMU's. */
function passAction(config: VmConfig, text: string): void {
  setAction(config, text);
  passRest(config, 'action', parseOptions(text), ['shutdown', 'reboot']);
}

function addObject(config: VmConfig, text: string): void {
  const options = parseEither(text, 'qom-type');
  const type = options['qom-type'] ?? '';
  addNamed('object', isOurObject(type) ? config.objects : config.qemu.objects, options, ['qom-type', 'id']);
  checkId(
    'object',
    options['id'],
    (isOurObject(type) ? config.qemu.objects : config.objects).map(({ id }) => id),
  );
  checkObject(options);
  // An iothread is both: comparers name one, and so do QEMU's disks.
  if (!isOurObject(type) || type === 'iothread') pass(config, 'object', text);
}

function addChardev(config: VmConfig, text: string): void {
  const options = parseEither(text, 'backend');
  addNamed('chardev', config.chardevs, options);
  if (!INNER_CHARDEVS.has(options['backend'] ?? '')) return;
  config.chardevs.pop();
  pass(config, 'chardev', text);
}

/** Chardevs whose other end is in QEMU itself. */
const INNER_CHARDEVS = new Set(['msmouse', 'wctablet', 'qemu-vdagent', 'vc', 'ringbuf']);

function setDisplay(config: VmConfig, text: string): void {
  const vnc = /^vnc=(.*)$/.exec(text)?.[1];
  if (vnc === undefined) checkDisplay(text);
  else config.vnc = vnc;
}

function passRunWith(config: VmConfig, text: string): void {
  checkRunWith(parseOptions(text));
  pass(config, 'run-with', text);
}
